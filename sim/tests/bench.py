"""cocotb testbenches under pytest: compiles a component and runs the `@cocotb.test`s of a module on it.

A test file holds both sides: the coroutines take the compiled component as `dut`, and the pytest function calls
`run(compiled(Component, ...), __name__, case)`. Where it has a parameter `case`, it is called for each coroutine of the
file, so that each is an item of its own. `WAVES=1` keeps a waveform in `sim_build/`;
`COCOTB_RANDOM_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import cocotb_tools.config
from amaranth.lib import wiring
from cocotb_tools.runner import get_runner

from rtl.hierarchy import rtlil
from sim.cache import cached, digest
from sim.compiler import build, tools_version
from sim.verilog import macros, verilog

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Program:
    """A compiled simulation: its top module, and the folder where it lies."""

    name: str
    path: Path


@cache
def compiled(factory: Callable[..., wiring.Component], *args: Any) -> Program:
    """The component `factory(*args)`, compiled; elaborated once however many cases run on it."""
    component = factory(*args)
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(component).__name__).lower()
    waves = waves_wanted()
    text = rtlil(component, name)
    source = verilog(text, name)
    # cocotb's runner would make every signal public, which forbids most of Verilator's optimisations.
    ports = ["clk", "rst", *("__".join(map(str, path)) for path, _, _ in component.signature.flatten(component))]
    control = "".join(f'public_flat_rw -module "{name}" -var "{port}"\n' for port in ports)
    control += "".join(f'no_inline -module "{macro}"\n' for macro in macros(text, name))
    libs = cocotb_tools.config.libs_dir
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"

    def make(work: Path) -> None:
        (work / "design.v").write_text(source)
        link = [f"-Wl,-rpath,{libs}", f"-L{libs}", "-lcocotbvpi_verilator"]
        build(work, [work / "design.v"], name, name, extra=[main], control=control, waves=waves, vpi=True, link=link)

    key = digest(source, control, main.read_bytes(), str(libs), tools_version(), str(waves))
    return Program(name, cached("bench", key, make))


def waves_wanted() -> bool:
    """Whether `WAVES` asks for waveforms."""
    return os.environ.get("WAVES", "0") not in ("", "0")


def cases(module: ModuleType) -> list[str]:
    """Names of the cocotb tests of a module."""
    return [name for name, value in vars(module).items() if hasattr(value, "generate_tests")]


def _failures(results: Path) -> tuple[int, list[str]]:
    """Tests that ran, and a line for each that failed."""
    if not results.is_file():
        return 0, []
    cases = [case for case in ElementTree.parse(results).getroot().iter("testcase") if case.find("skipped") is None]
    failed = []
    for case in cases:
        for problem in (*case.findall("failure"), *case.findall("error")):
            message = problem.get("error_msg") or problem.get("message") or problem.text or ""
            failed.append(f"{case.get('name')}: {problem.get('error_type', '')} {message}".rstrip())
    return len(cases), failed


def run(
    program: Program,
    test_module: str,
    case: str,
    *,
    env: Mapping[str, object] | None = None,
    seed: int | None = None,
) -> None:
    """Runs the cocotb test `case` of `test_module` on a program.

    Parameters
    ----------
    env : mapping, optional
        Environment of the simulation: how parameters reach the test. Values are turned into strings.
    seed : int, optional
        Of every random choice. Random by default, and printed.

    Raises AssertionError with the message of the failed test, or if there is no such test.
    """
    name, waves = program.name, waves_wanted()
    seed = seed if seed is not None else int(os.environ.get("COCOTB_RANDOM_SEED") or random.getrandbits(31))
    work = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    log = work / "simulation.log"
    try:
        runner = get_runner("verilator")
        # The runner ends Python when a test has failed; the results file says it better.
        try:
            runner.test(
                hdl_toplevel=name,
                hdl_toplevel_lang="verilog",
                test_module=test_module,
                testcase=case,
                build_dir=program.path,
                test_dir=work,
                results_xml=str(work / "results.xml"),
                log_file=log,
                extra_env={
                    "COCOTB_ANSI_OUTPUT": "0",
                    **{key: str(value) for key, value in (env or {}).items()},
                },
                seed=seed,
                waves=waves,
            )
            ended = ""
        except (SystemExit, RuntimeError) as error:
            ended = f"the simulation ended early: {error}"
        print(log.read_text() if log.is_file() else "", f"seed {seed}", sep="\n")
        if waves and (work / "dump.vcd").is_file():
            kept = ROOT / "sim_build" / f"{name}.vcd"
            kept.parent.mkdir(exist_ok=True)
            shutil.move(work / "dump.vcd", kept)
            print(f"waveform: {kept}")
        count, failed = _failures(work / "results.xml")
        if failed:
            raise AssertionError(f"{len(failed)} of {count} tests failed (seed {seed}):\n" + "\n".join(failed))
        if not count:
            raise AssertionError(f"there is no cocotb test {case!r} in {test_module} (seed {seed}); {ended}")
        assert not ended, ended
    finally:
        shutil.rmtree(work, ignore_errors=True)
