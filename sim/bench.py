"""cocotb testbenches under pytest: compiles a component and runs the `@cocotb.test`s of a module on it.

A test file holds both sides: the pytest function calls `run(component, __name__)`, the coroutines take the compiled
component as `dut`. `WAVES=1` keeps a waveform in `sim_build/`; `COCOTB_RANDOM_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import cocotb_tools.config
from amaranth.lib import wiring
from cocotb_tools.runner import get_runner

from rtl.hierarchy import rtlil

from .cache import cached, digest
from .compiler import build, tools_version
from .verilog import macros, verilog

ROOT = Path(__file__).parent.parent


def _program(component: wiring.Component, name: str, waves: bool) -> Path:
    """Folder with the compiled simulation `name` of the component."""
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

    return cached("bench", digest(source, control, main.read_bytes(), str(libs), tools_version(), str(waves)), make)


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
    component: wiring.Component,
    test_module: str,
    *,
    name: str | None = None,
    testcase: str | Sequence[str] | None = None,
    env: Mapping[str, object] | None = None,
    seed: int | None = None,
) -> int:
    """Runs the cocotb tests of `test_module` on `component`; returns how many ran.

    Parameters
    ----------
    name : str, optional
        Of the top module; by default made from the component's class.
    testcase : str or sequence of str, optional
        Only these tests.
    env : mapping, optional
        Environment of the simulation: how parameters reach the tests. Values are turned into strings.
    seed : int, optional
        Of every random choice. Random by default, and printed.

    Raises AssertionError with the messages of the failed tests, or if no test ran at all.
    """
    name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(component).__name__).lower()
    waves = os.environ.get("WAVES", "0") not in ("", "0")
    program = _program(component, name, waves)
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
                testcase=testcase,
                build_dir=program,
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
            raise AssertionError(f"no cocotb test of {test_module} ran (seed {seed}); {ended}")
        assert not ended, ended
        return count
    finally:
        shutil.rmtree(work, ignore_errors=True)
