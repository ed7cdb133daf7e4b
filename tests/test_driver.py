"""The register driver against a model of the registers, whose ring is executed by the golden model."""

from __future__ import annotations

import numpy as np
import pytest
import references
from references import random_tensor

from host import open_board, ops
from host.backends.driver import RegisterBoard
from host.errors import AcceleratorError
from host.ring import RESERVED_BYTES, RING_ENTRIES
from rtl.config import AcceleratorConfig
from rtl.isa import (
    COUNTER_NAMES,
    CSR,
    DESCRIPTOR_BYTES,
    ID,
    VERSION,
    Control,
    Descriptor,
    Error,
    Flag,
    Irq,
    Opcode,
    Status,
    config_words,
)
from sim.golden import execute

CONFIG = AcceleratorConfig.preset("tiny")


class RegisterModel:
    """Transport to the CSRs as `rtl.isa` describes them. Descriptors run when the host waits."""

    def __init__(self, memory_bytes: int = 1 << 20, **registers: int):
        self.memory_bytes = memory_bytes
        self.memory = np.zeros(memory_bytes, np.uint8)
        self.counters = dict.fromkeys(COUNTER_NAMES, (1 << 47) + 5)  # left behind by an earlier host
        self.closed = False
        self.stuck = False
        self.registers = {CSR.ID: ID, CSR.VERSION: VERSION, CSR.IRQ_ENABLE: 0}
        self.registers |= zip((CSR.CONFIG0, CSR.CONFIG1, CSR.CONFIG2), config_words(CONFIG), strict=True)
        self.registers |= {CSR[name]: value for name, value in registers.items()}
        self.reset()

    def reset(self) -> None:
        zero = ("CONTROL", "STATUS", "IRQ", "ERROR_CODE", "ERROR_INDEX", "HEAD", "TAIL", "COMPLETED")
        self.registers |= {CSR[name]: 0 for name in zero}
        self.polls = 3  # of CONTROL until the reset is done

    def csr_read(self, address: int) -> int:
        if address >= CSR.COUNTERS:
            index, high = divmod(address - CSR.COUNTERS, 8)
            value = self.counters[COUNTER_NAMES[index]]
            if not high:
                self.latched = value >> 32
                return value & 0xFFFFFFFF
            return self.latched
        if address == CSR.CONTROL and self.polls:
            self.polls -= 1
            return int(Control.RESET)
        return self.registers[address]

    def csr_write(self, address: int, value: int) -> None:
        if address == CSR.CONTROL and value & Control.RESET:
            self.reset()
        elif address == CSR.IRQ:
            self.registers[CSR.IRQ] &= ~value
        else:
            self.registers[address] = int(value)

    def memory_write(self, address: int, data: np.ndarray) -> None:
        self.memory[address : address + data.nbytes] = data.reshape(-1)

    def memory_read(self, address: int, nbytes: int) -> np.ndarray:
        return self.memory[address : address + nbytes].copy()

    def wait(self) -> None:
        csr = self.registers
        if self.stuck:
            raise TimeoutError("no interrupt")
        assert csr[CSR.CONTROL] & Control.ENABLE
        while csr[CSR.HEAD] != csr[CSR.TAIL] and not csr[CSR.STATUS]:
            slot = csr[CSR.RING_BASE] + (csr[CSR.HEAD] & csr[CSR.RING_MASK]) * DESCRIPTOR_BYTES
            descriptor = Descriptor.unpack(self.memory[slot : slot + DESCRIPTOR_BYTES])
            done = execute(CONFIG, self.memory, [descriptor])
            if done.error:
                csr |= {CSR.ERROR_CODE: int(done.error), CSR.ERROR_INDEX: csr[CSR.HEAD], CSR.STATUS: int(Status.ERROR)}
                csr[CSR.IRQ] |= Irq.ERROR
            else:
                csr[CSR.COMPLETED] += 1
                self.counters["descriptors"] = (self.counters["descriptors"] + 1) % (1 << 48)
                csr[CSR.IRQ] |= Irq.DONE if descriptor.flags & Flag.INTERRUPT else 0
            csr[CSR.HEAD] += 1
        assert csr[CSR.IRQ] & csr[CSR.IRQ_ENABLE], "the interrupt would never come"

    def close(self) -> None:
        self.closed = True


def sound(address: int = RESERVED_BYTES) -> Descriptor:
    """Writes 4 zeros at `address`."""
    fields = {"stream_base": 1 << 19, "stationary_base": 1 << 19, "out_base": address}
    return Descriptor(opcode=Opcode.FLAT, stream_bits=1, stationary_bits=1, row_groups=3, **fields)


def test_products_through_registers(rng):
    board = RegisterBoard("model", RegisterModel())
    assert board.config == CONFIG
    x, w = random_tensor(rng, (3, 5, 9, 9), 4, False), random_tensor(rng, (9, 5, 3, 3), 4, True)
    assert np.array_equal(ops.conv2d(board, x, w), references.conv2d(x.codes, w.codes, 1, 1))
    counters = board.counters()
    assert counters["descriptors"] > 0
    assert counters["cycles"] == 0  # the model has no clock; what an earlier host left does not count
    assert counters["macs"] == 3 * 9 * 81 * 45


def test_counters_wrap():
    transport = RegisterModel()
    transport.counters["descriptors"] = (1 << 48) - 2
    board = RegisterBoard("model", transport)
    board.run([sound()] * 5)
    assert board.counters()["descriptors"] == 5


def test_more_descriptors_than_the_ring_holds():
    transport = RegisterModel()
    board = RegisterBoard("model", transport)
    addresses = [RESERVED_BYTES + 16 * i for i in range(2 * RING_ENTRIES + 9)]
    transport.memory[RESERVED_BYTES : addresses[-1] + 32] = 1
    batch = [sound(address) for address in addresses]
    board.run(batch)
    board.run([])
    assert not board.read(RESERVED_BYTES, addresses[-1] + 16 - RESERVED_BYTES).any()
    assert board.read(addresses[-1] + 16, 8).all()
    assert not any(descriptor.flags for descriptor in batch), "the caller's descriptors stay as they are"


@pytest.mark.parametrize("index", [0, 3, RING_ENTRIES - 1, RING_ENTRIES + 2])
def test_error_names_the_descriptor_and_the_board_goes_on(index):
    board = RegisterBoard("model", RegisterModel())
    board.run([sound()] * 7)
    batch = [sound() for _ in range(RING_ENTRIES + 4)]
    batch[index].stride = 3
    with pytest.raises(AcceleratorError, match=rf"descriptor {index} with error 6: SHAPE, .*buffers") as caught:
        board.run(batch)
    assert (caught.value.code, caught.value.index) == (Error.SHAPE, index)
    board.run([sound()] * 3)
    assert board.counters()["descriptors"] == 7 + index + 3


def test_golden_board_reports_errors_alike():
    board = open_board("golden", config="tiny")
    with pytest.raises(AcceleratorError, match="descriptor 1 with error 1: OPCODE"):
        board.run([sound(), Descriptor(opcode=77)])
    board.run([sound()])
    assert {name: count for name, count in board.counters().items() if count} == {"descriptors": 2}


def test_unknown_error_code():
    error = AcceleratorError(99, 4)
    assert error.code == 99
    assert "descriptor 4 with error 99: unknown" in str(error)


def test_silence_resets_the_board():
    transport = RegisterModel()
    board = RegisterBoard("model", transport)
    transport.stuck = True
    with pytest.raises(TimeoutError, match="0 of 1 descriptors"):
        board.run([sound()])
    transport.stuck = False
    board.run([sound()])


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ({"ID": 0xFFFFFFFF}, "ID 0xffffffff, the accelerator's is 0x46524143"),
        ({"VERSION": (VERSION | 0xFFFF) + 4}, r"version 4\.3, this host drives 3\.x"),
        ({"CONFIG0": 0}, "unknown configuration: .*clusters is 0"),
    ],
)
def test_unknown_hardware_is_refused(registers, message):
    transport = RegisterModel(**registers)
    with pytest.raises(RuntimeError, match=message):
        RegisterBoard("model", transport)
    assert transport.closed


def test_newer_minor_version_is_accepted():
    RegisterBoard("model", RegisterModel(VERSION=VERSION + 1))


@pytest.mark.parametrize("make", [lambda: RegisterBoard("model", RegisterModel()), lambda: open_board("golden")])
def test_memory_access_is_checked(make):
    board = make()
    data = np.arange(8, dtype=np.uint8)
    board.write(RESERVED_BYTES, data)
    assert np.array_equal(board.read(RESERVED_BYTES, 8), data)
    for address in (-8, board.memory_bytes - 4):
        with pytest.raises(ValueError, match="8 bytes at address"):
            board.write(address, data)
        with pytest.raises(ValueError, match="8 bytes at address"):
            board.read(address, 8)
    board.close()


def test_open_board_says_what_there_is():
    with pytest.raises(ValueError, match=r"unknown board 'zcu102'; there are golden, golden\+cycles, sim, torch"):
        open_board("zcu102")
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        open_board("golden", config="huge")
