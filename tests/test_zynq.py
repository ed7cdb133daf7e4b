"""The board `zynq` over a fake of its Linux, with the compiled RTL behind the registers (`fake_zynq`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_zynq import BUFFER_BYTES, CACHE_LINE, PHYSICAL, FakeZynq
from references import random_tensor
from runs import results

import boards
from host import open_board, ops
from host.backends import find, zynq
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES
from host.zynq import load
from host.zynq.buffer import Buffer
from host.zynq.linux import Device, MissingError
from rtl.config import AcceleratorConfig
from rtl.isa import CSR, Descriptor


@pytest.fixture
def linux(tmp_path):
    fake = FakeZynq(tmp_path / "root")
    yield fake
    fake.rtl.close()


def products(board, seed: int = 5) -> list[np.ndarray]:
    """The three products of a layer's training step."""
    rng = np.random.default_rng(seed)
    x, w = random_tensor(rng, (3, 5, 7, 7), 4, False), random_tensor(rng, (6, 5, 3, 3), 4, True)
    g = random_tensor(rng, (3, 6, 7, 7), 6, True)
    return [
        np.asarray(result)
        for result in (
            ops.conv2d(board, x, w),
            ops.conv2d_input_grad(board, g, w, x.shape),
            ops.conv2d_weight_grad(board, g, x, w.shape),
        )
    ]


def equal(found, wanted) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("cached", [True, False])
def test_products_are_those_of_the_golden_board(linux, cached):
    board = open_board("zynq", linux=linux, cached=cached)
    assert board.config == AcceleratorConfig.preset("tiny")
    assert board.memory_bytes == BUFFER_BYTES
    assert equal(products(board), products(open_board("golden", config="tiny")))
    assert linux.aperture == [PHYSICAL, BUFFER_BYTES]
    assert board.counters()["cycles"] > 0
    assert linux.uncached is not cached
    with pytest.raises(AcceleratorError, match="OPCODE"):
        board.run([Descriptor(opcode=77)])
    assert equal(products(board, 6), products(open_board("golden", config="tiny"), 6))
    board.close()
    board.close()


def test_training_is_that_of_the_golden_board(linux, trainer):
    """Weights, momenta and metrics, bit for bit."""
    changes = {"preset": "tiny", "epochs": 1}
    runs = [trainer("golden", open_board("golden", config="tiny"), **changes)]
    runs.append(trainer("zynq", open_board("zynq", linux=linux), **changes))
    assert all(run.run() for run in runs)
    wanted, found = (results(run.out)[0] for run in runs)
    assert found == wanted


@pytest.mark.parametrize("lost", ["sync_for_device", "sync_for_cpu"])
def test_a_sync_that_is_left_out_is_noticed(linux, lost):
    """That is, the fake has a cache, so the other tests say something."""
    board = open_board("zynq", linux=linux)
    linux.lost = {lost}
    try:
        found = products(board)
    except (AcceleratorError, TimeoutError):
        return
    assert not equal(found, products(open_board("golden", config="tiny")))


def test_a_write_keeps_what_the_accelerator_left_beside_it(linux):
    """In lines that are written in part, and were read before the accelerator wrote."""
    buffer = Buffer(linux, "fractrain-buffer")
    buffer.read(0, 256)
    linux.rtl.memory_write(0, np.full(256, 7, np.uint8))
    buffer.write(CACHE_LINE + 5, np.full(70, 9, np.uint8))
    wanted = np.full(256, 7, np.uint8)
    wanted[CACHE_LINE + 5 :][:70] = 9
    assert np.array_equal(linux.rtl.memory_read(0, 256), wanted)
    buffer.close()


def test_only_what_is_touched_is_synced(linux):
    board = open_board("zynq", linux=linux)
    linux.syncs.clear()
    board.write(RESERVED_BYTES + 4096, np.zeros(128, np.uint8))
    board.read(RESERVED_BYTES + 8192, 64)
    assert linux.syncs == [
        ("sync_for_device", RESERVED_BYTES + 4096, 128),
        ("sync_for_cpu", RESERVED_BYTES + 8192, 64),
    ]
    with pytest.raises(ValueError, match="do not lie in the buffer"):
        Buffer(linux, "fractrain-buffer").write(BUFFER_BYTES - 1, np.zeros(2, np.uint8))


def test_a_configuration_that_is_asked_for_is_checked(linux):
    open_board("zynq", config=AcceleratorConfig.preset("tiny", vendor="xc7"), linux=linux).close()
    with pytest.raises(RuntimeError, match="not have this configuration but that of --preset tiny"):
        open_board("zynq", config="sim", linux=linux)
    open_board("zynq", linux=linux).close()  # the refusal has let go of the device


def test_one_process_has_the_device(linux, tmp_path):
    board = open_board("zynq", linux=linux)
    with pytest.raises(RuntimeError, match=r"another process uses .*uio1"):
        open_board("zynq", linux=linux)
    script = f"import fcntl; fcntl.flock(open({str(linux.path('/dev/uio1'))!r}), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode
    board.close()
    subprocess.run([sys.executable, "-c", script], check=True)


def gone(name):
    def change(linux):
        path = linux.path(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def text(name, value):
    return lambda linux: linux.path(name).write_text(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gone("/sys/class/fpga_manager"), "no FPGA manager; to mend it: sudo python3 -m host.zynq.load"),
        (text("/sys/class/fpga_manager/fpga0/state", "power off"), "not configured .state 'power off'.; to mend"),
        (gone("/sys/class/uio"), "modprobe uio_pdrv_genirq"),
        (text("/sys/class/uio/uio1/name", "nobody"), "no UIO device 'fractrain'"),
        (gone("/dev/uio1"), "uio1 is not there"),
        (gone("/sys/class/u-dma-buf"), "sudo modprobe u-dma-buf"),
        (
            gone("/sys/class/u-dma-buf/fractrain-buffer"),
            "no buffer 'fractrain-buffer', and the kernel has 124 MiB of .*cma=256M",
        ),
        (
            text("/sys/class/u-dma-buf/fractrain-buffer/phys_addr", "0x18300100"),
            "the aperture does not take 0x18300100",
        ),
    ],
)
def test_what_is_missing_is_said(linux, change, message):
    change(linux)
    with pytest.raises(RuntimeError, match=message):
        open_board("zynq", linux=linux)


def test_a_permission_that_is_missing_is_said(linux, monkeypatch):
    """The superuser may open everything, so the refusal is the kernel's in name only."""

    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MissingError, match=r"may not open .*uio1; to mend it: sudo chgrp .*uio1 && sudo chmod g\+rw"):
        open_board("zynq", linux=linux)


def test_other_hardware_is_refused(linux, monkeypatch):
    monkeypatch.setattr(linux.rtl, "csr_read", lambda address: 0x1234 if address == CSR.ID else 0)
    with pytest.raises(RuntimeError, match="has ID 0x00001234"):
        open_board("zynq", linux=linux)


def test_silence_ends_in_a_timeout(linux, monkeypatch):
    board = open_board("zynq", linux=linux, patience=0.0)
    monkeypatch.setattr("fake_zynq._Uio.interrupt", lambda *_: False)
    with pytest.raises(TimeoutError, match="no interrupt within 0 s"):
        board.run([Descriptor(opcode=77)])


def test_the_protocol_of_uio(tmp_path):
    """A word that is 1 lets the interrupt through; whoever waits reads a word."""
    os.mkfifo(tmp_path / "uio")  # what is written there is there to be read
    device = Device(tmp_path / "uio")
    assert not device.interrupt(0)
    device.unmask()
    assert os.read(device.fd, 8) == (1).to_bytes(4, sys.byteorder)
    device.unmask()
    assert device.interrupt(0)
    assert not device.interrupt(0)
    device.close()


def test_it_is_a_backend():
    backend = find("zynq")
    assert backend.open is zynq._open
    assert backend.has_clock
    with pytest.raises(RuntimeError, match="to mend it"):  # not on a Zynq
        open_board("zynq")


# Loading ------------------------------------------------------------------------------------------------------------


def vivado_file(words: bytes) -> bytes:
    """A .bit file as Vivado writes it."""
    fields = b"".join(
        key + len(value).to_bytes(2) + value
        for key, value in (
            (b"a", b"pynq_z2;Version=2024\0"),
            (b"b", b"7z020clg400\0"),
            (b"c", b"2026\0"),
            (b"d", b"0\0"),
        )
    )
    head = bytes.fromhex("00090ff00ff00ff00ff0000001")
    return head + fields + b"e" + len(words).to_bytes(4) + words


WORDS = bytes.fromhex("ffffffff" * 8 + "000000bb11220044ffffffffaa99556620000000")


@pytest.fixture
def built(tmp_path):
    folder = tmp_path / "pynq_z2"
    folder.mkdir()
    (folder / "pynq_z2.bit").write_bytes(vivado_file(WORDS))
    board = boards.board_named("pynq_z2")
    (folder / "pynq_z2.dts").write_text(board.files("pynq_z2", 100.0)["pynq_z2.dts"])
    return folder


def test_firmware_has_its_bytes_turned_round():
    found = load.firmware(vivado_file(WORDS))
    assert found == b"".join(WORDS[at : at + 4][::-1] for at in range(0, len(WORDS), 4))
    assert bytes.fromhex("665599aa") in found  # what the kernel's driver looks for
    for wrong in (b"", b"bits\n", vivado_file(b"\0" * 64), vivado_file(WORDS)[:-4]):
        with pytest.raises(ValueError, match="not a bitstream"):
            load.firmware(wrong)


def test_loading(linux, built, monkeypatch):
    """The overlay is the kernel's to read; here it is the one that the compiler made."""
    monkeypatch.setattr(load, "_compile", lambda source: b"tree of " + source.name.encode())
    with pytest.raises(MissingError, match="OF_CONFIGFS"):
        load.load(linux, built)
    overlays = linux.path("/sys/kernel/config/device-tree/overlays")
    overlays.mkdir(parents=True)
    open_board("zynq", linux=linux, bitstream=built).close()
    assert (overlays / "fractrain" / "dtbo").read_bytes() == b"tree of pynq_z2.dts"
    name = "fractrain_pynq_z2.bin"
    assert linux.path(f"/lib/firmware/{name}").read_bytes() == load.firmware(vivado_file(WORDS))
    assert f'firmware-name = "{name}"' in (built / "pynq_z2.dts").read_text()
    (overlays / "fractrain" / "dtbo").unlink()  # configfs lets a folder go with what is in it
    linux.path("/sys/class/fpga_manager/fpga0/state").write_text("write error\n")
    with pytest.raises(MissingError, match=r"did not take the bitstream .state 'write error'"):
        load.load(linux, built)


def test_a_build_without_a_bitstream_is_refused(linux, built, capsys):
    (built / "pynq_z2.bit").unlink()
    assert load.main([str(built)]) == 2
    assert "0 bitstreams and 1 overlays" in capsys.readouterr().err


def test_the_overlay_says_what_the_host_looks_for(built):
    tree = (built / "pynq_z2.dts").read_text()
    assert '\tfractrain@40000000 {\n\t\tcompatible = "generic-uio";' in tree
    assert 'device-name = "fractrain-buffer";\n\t\tsize = <0x4000000>;' in tree
    assert 'insert-rate = "100000000"' in tree


@pytest.mark.skipif(not shutil.which("dtc"), reason="the device tree compiler is not installed")
def test_the_overlay_compiles(built):
    assert load._compile(Path(built / "pynq_z2.dts"))[:4] == bytes.fromhex("d00dfeed")
