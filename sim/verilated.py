"""The RTL, compiled with Verilator, with a DDR model at its AXI ports: registers, memory, and an interrupt to wait for.

`VerilatedTransport` has the methods of any other way to reach an accelerator; the host cannot tell the difference. A
program runs in one call into compiled code (`harness.cpp`), not in a call per cycle.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import amaranth
import numpy as np

from rtl.config import AcceleratorConfig
from rtl.ddr import Ddr
from rtl.isa import CSR

from .cache import cached, digest
from .compiler import build, tools_version
from .verilog import macros, verilog

SLVERR, DECERR = 2, 3
#: Cycles in one call into the model: short enough that Ctrl-C is heard, even of the largest array.
CHUNK = 20_000
#: Cycles after which a program is taken for stuck.
TIMEOUT = 2_000_000_000

_HERE = Path(__file__).parent
_HARNESS = ("harness.v", "harness.cpp", "ddr.h")

#: The memory unless another is asked for.
DDR = Ddr()


class ProtocolError(RuntimeError):
    """The accelerator broke a rule of AXI."""


class _Settings(ctypes.Structure):
    """`ddr::Settings`."""

    _fields_ = [
        ("bytes", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("read_latency", ctypes.c_uint32),
        ("write_latency", ctypes.c_uint32),
        ("read_numerator", ctypes.c_uint32),
        ("read_denominator", ctypes.c_uint32),
        ("write_numerator", ctypes.c_uint32),
        ("write_denominator", ctypes.c_uint32),
        ("shared_numerator", ctypes.c_uint32),
        ("shared_denominator", ctypes.c_uint32),
        ("outstanding", ctypes.c_uint32),
        ("stall", ctypes.c_uint32),
        ("turnaround", ctypes.c_uint32),
        ("batch", ctypes.c_uint32),
        ("refresh_interval", ctypes.c_uint32),
        ("refresh", ctypes.c_uint32),
    ]


def build_library(rtlil: str, *, managers: int = 1, waves: bool = False, label: str = "the RTL") -> Path:
    """The shared library of a design with the ports of `rtl.top.Accelerator`, module `accelerator` in `rtlil`.

    It is compiled once for each content and kept; a line on stderr says when the first time takes a while.
    """
    text = verilog(rtlil, "accelerator")
    parts = [(_HERE / name).read_text() for name in _HARNESS]

    def make(work: Path) -> None:
        print(f"compiling {label} for simulation, once (about a minute) ...", end=" ", file=sys.stderr, flush=True)
        start = time.monotonic()
        (work / "design.v").write_text(text)
        build(
            work,
            [work / "design.v", _HERE / "harness.v"],
            "harness",
            "model.so",
            extra=[_HERE / "harness.cpp"],
            # Shared code for the many instances compiles twice as fast and runs faster, too.
            control="".join(f'no_inline -module "{name}"\n' for name in macros(rtlil, "accelerator")),
            defines=["MANAGER1"] * (managers - 1),
            prefix="Vharness",
            waves=waves,
        )
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    return cached("model", digest(text, *parts, tools_version(), str(waves)), make) / "model.so"


def _named(config: str | AcceleratorConfig) -> AcceleratorConfig:
    config = AcceleratorConfig.preset(config) if isinstance(config, str) else config
    # A vendor's cells have no model here; their portable twins do the same.
    return replace(config, vendor="generic")


def build_model(config: str | AcceleratorConfig = "sim", *, waves: bool = False) -> Path:
    """The shared library of the accelerator with this configuration (or preset), compiled if need be.

    Raises
    ------
    RuntimeError
        If a tool is missing (the message says how to get it) or fails.
    """
    config = _named(config)
    # Elaboration takes seconds, so what it depends on names the result as well.
    rtl = sorted((_HERE.parent / "rtl").glob("*.py"))
    ours = sorted([*_HERE.glob("verilog.py"), *_HERE.glob("compiler.py"), *(_HERE / name for name in _HARNESS)])
    sources = [f"{path.name}\n{path.read_text()}" for path in rtl + ours]
    key = digest(*sources, config.to_json(), amaranth.__version__, tools_version(), str(waves))

    def make(work: Path) -> None:
        from rtl.hierarchy import rtlil
        from rtl.top import Accelerator

        label = f"{config.clusters} x {config.rows} rows"
        text = rtlil(Accelerator(config), "accelerator")
        os.link(build_library(text, managers=config.managers, waves=waves, label=label), work / "model.so")

    return cached("accelerator", key, make) / "model.so"


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    handle, u32, u64, text = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p
    for name, result, *arguments in (
        ("create", handle, ctypes.POINTER(_Settings)),
        ("destroy", None, handle),
        ("reset", None, handle),
        ("memory", handle, handle),
        ("cycles", u64, handle),
        ("run", u64, handle, u64),
        ("idle", None, handle, u64),
        ("interrupt", ctypes.c_int, handle),
        ("csr_write", ctypes.c_int, handle, u32, u32),
        ("csr_read", ctypes.c_int, handle, u32, ctypes.POINTER(u32)),
        ("fault", None, handle, ctypes.c_int, u32, u32, ctypes.c_int),
        ("violation", text, handle),
        ("trace", ctypes.c_int, handle, text),
    ):
        function = getattr(library, f"harness_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class VerilatedTransport:
    """A simulated board.

    Parameters
    ----------
    config : str or AcceleratorConfig
        What to build.
    waves : path-like, optional
        Writes a VCD waveform of everything there. It is large and slow.
    memory_bytes : int
        Size of the DDR, from address 0. It costs memory only where it is written.
    ddr : Ddr
        How the memory answers.
    stall : float
        Chance of a random stall on each channel in each cycle, for tests.
    seed : int, optional
        Of the stalls; random by default, and named in the representation.
    library : Path, optional
        A library from `build_library` in place of the accelerator's.
    """

    def __init__(
        self,
        config: str | AcceleratorConfig = "sim",
        *,
        waves: str | Path | None = None,
        memory_bytes: int = 256 << 20,
        ddr: Ddr = DDR,
        stall: float = 0.0,
        seed: int | None = None,
        library: Path | None = None,
    ):
        self._handle = None
        if memory_bytes <= 0 or memory_bytes % 4096 or memory_bytes > 1 << 32:
            raise ValueError(f"memory_bytes is {memory_bytes}, must be a multiple of 4096, up to 4 GiB")
        if not 0 <= stall < 1:
            raise ValueError(f"stall is {stall}, must be 0 to below 1")
        rate, shared = (Fraction(beats).limit_denominator(1000) for beats in (ddr.bandwidth, ddr.shared))
        self.memory_bytes = memory_bytes
        self.seed = random.getrandbits(32) if seed is None else seed
        self._stall = stall
        path = library or build_model(config, waves=waves is not None)
        self._library = _load(path)
        settings = _Settings(
            bytes=memory_bytes,
            seed=self.seed,
            read_latency=ddr.read_latency,
            write_latency=ddr.write_latency,
            read_numerator=rate.numerator,
            read_denominator=rate.denominator,
            write_numerator=rate.numerator,
            write_denominator=rate.denominator,
            shared_numerator=shared.numerator,
            shared_denominator=shared.denominator,
            outstanding=ddr.outstanding,
            stall=int(stall * 256),
            turnaround=ddr.turnaround,
            batch=ddr.batch,
            refresh_interval=ddr.refresh_interval,
            refresh=ddr.refresh,
        )
        self._handle = self._library.harness_create(ctypes.byref(settings))
        if not self._handle:
            raise MemoryError(f"the simulated DDR of {memory_bytes} bytes could not be mapped")
        address = self._library.harness_memory(self._handle)
        self._memory = np.ctypeslib.as_array((ctypes.c_uint8 * memory_bytes).from_address(address))
        if waves is not None and not self._library.harness_trace(self._handle, str(Path(waves).absolute()).encode()):
            self.close()
            raise RuntimeError(f"the waveform {waves} cannot be written")

    # Registers ------------------------------------------------------------------------------------------------------

    def csr_read(self, address: int) -> int:
        value = ctypes.c_uint32()
        self._check(self._library.harness_csr_read(self._open(), address, ctypes.byref(value)), "read", address)
        return value.value

    def csr_write(self, address: int, value: int) -> None:
        self._check(self._library.harness_csr_write(self._open(), address, int(value)), "write", address)

    # Memory ---------------------------------------------------------------------------------------------------------

    def memory_write(self, address: int, data: np.ndarray) -> None:
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self._range(address, raw.size)[:] = raw

    def memory_read(self, address: int, nbytes: int) -> np.ndarray:
        """A copy of `nbytes` bytes, dtype uint8."""
        return self._range(address, nbytes).copy()

    # Time -----------------------------------------------------------------------------------------------------------

    def wait(self, timeout_cycles: int = TIMEOUT) -> int:
        """Runs until the interrupt is high; returns the cycles that took.

        Raises TimeoutError, which tells the status register, if it is not high after `timeout_cycles`.
        """
        done = 0
        while True:
            done += self._library.harness_run(self._open(), min(CHUNK, timeout_cycles - done))
            self._violation()
            if self._library.harness_interrupt(self._handle):
                return done
            if done >= timeout_cycles:
                status = self.csr_read(CSR.STATUS)
                raise TimeoutError(f"no interrupt after {done} cycles; STATUS is 0x{status:08x}")

    def run(self, cycles: int) -> None:
        """Lets `cycles` go by, whatever the interrupt says."""
        self._library.harness_idle(self._open(), cycles)
        self._violation()

    def reset(self) -> None:
        """A hardware reset; DDR keeps its contents."""
        self._library.harness_reset(self._open())

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far."""
        return self._library.harness_cycles(self._open())

    # Tests ----------------------------------------------------------------------------------------------------------

    def inject_fault(self, kind: str, address: int, nbytes: int = 8, resp: int = SLVERR) -> None:
        """Answers the next `"read"` or `"write"` burst that touches the range with `resp`; it does nothing else."""
        if kind not in ("read", "write") or resp not in (SLVERR, DECERR):
            raise ValueError(f"kind is {kind!r} and resp {resp}, must be 'read' or 'write' and SLVERR or DECERR")
        self._library.harness_fault(self._open(), kind == "write", address, nbytes, resp)

    def close(self) -> None:
        """Frees the model and its memory; ends the waveform. May be called again."""
        handle, self._handle, self._memory = self._handle, None, None
        if handle:
            self._library.harness_destroy(handle)

    def __enter__(self) -> VerilatedTransport:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        stalls = f", stall={self._stall}, seed={self.seed}" if self._stall else ""
        return f"VerilatedTransport(memory_bytes={self.memory_bytes}{stalls})"

    # ----------------------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        if not self._handle:
            raise RuntimeError("the simulation is closed")
        return self._handle

    def _range(self, address: int, nbytes: int) -> np.ndarray:
        self._open()
        if address < 0 or nbytes < 0 or address + nbytes > self.memory_bytes:
            raise ValueError(f"bytes {address}..{address + nbytes} are outside the DDR of {self.memory_bytes} bytes")
        return self._memory[address : address + nbytes]

    def _check(self, response: int, what: str, address: int) -> None:
        self._violation()
        if response:
            outcome = "was not answered" if response < 0 else f"met AXI response {response}"
            raise RuntimeError(f"register {what} at 0x{address:03x} {outcome}")

    def _violation(self) -> None:
        if text := self._library.harness_violation(self._handle):
            raise ProtocolError(text.decode())
