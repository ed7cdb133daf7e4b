"""A series of training runs, and the table that compares them: `python -m host.experiment CONFIG.toml ... --out DIR`.

Each configuration file describes one run: the options of `host.train` with underscores, lists for widths, and `method`,
its name in the table. A run lives in DIR/NAME, NAME.toml being its file. Finished runs are skipped and interrupted ones
continued, so the same command goes on wherever the last one stopped. Settings that differ between machines may be given
for all runs on the command line. Without configurations it only writes the table of the runs that lie in DIR, whoever
made them. docs/experiments.md describes the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host import train
from host.training.comparison import METHOD_FILE, write_comparison
from host.training.config import TrainConfig, all_options
from host.training.folder import CHECKPOINT, SUMMARY
from host.training.records import read_summary

#: Setting of a configuration file that is no option of `host.train`: the run's name in the table.
METHOD = "method"
#: Settings that depend on the machine, and may be given for all runs.
LOCAL = {
    "board": "board of all runs",
    "preset": "configuration of the accelerator of all runs",
    "clusters": "its clusters",
    "device": "device of board torch",
    "data": "data set of all runs",
}


@dataclass(frozen=True)
class Run:
    """A run as its configuration file describes it."""

    name: str
    method: str
    settings: dict[str, Any]
    config: TrainConfig


def read_run(path: Path, changes: Mapping[str, Any] | None = None) -> Run:
    """The run that a configuration file describes, with `changes` to its settings.

    Raises
    ------
    ValueError
        If the file is no TOML, or a setting is unknown, of another type, or out of range. The message names the file.
    """
    try:
        settings = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    defaults = {option.name: option.default for option in all_options().values()}
    method = settings.pop(METHOD, path.stem)
    if not isinstance(method, str):
        raise ValueError(f"{path}: {METHOD} is {method!r}, must be a text")
    for key, value in settings.items():
        if key not in defaults:
            raise ValueError(f"{path}: unknown setting {key!r}; there are {METHOD}, {', '.join(defaults)}")
        if not _same_type(value, defaults[key]):
            raise ValueError(f"{path}: {key} is {value!r}, must be a value such as {_toml(defaults[key])}")
    settings.update(changes or {})
    try:
        config = TrainConfig.of(**settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return Run(path.stem, method, settings, config)


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return True
    return type(value) is type(default)


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def arguments(run: Run, out: Path) -> list[str]:
    """The command line of `host.train` for a run in the folder `out`."""
    given = [f"--out={out}"]
    for key, value in run.settings.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{name}" if value else f"--no-{name}")
        else:
            given.append(f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}")
    if (out / CHECKPOINT).exists():
        given.append("--resume")
    return given


def is_finished(run: Run, out: Path) -> bool:
    """Whether the run in `out` has ended. Raises ValueError if it had other settings."""
    if not (out / SUMMARY).exists():
        return False
    had, wanted = read_summary(out)["config"], run.config.to_json()
    differing = [
        f"{key} = {_toml(had.get(key))} (now {_toml(wanted.get(key))})"
        for key in sorted(had.keys() | wanted.keys())
        if had.get(key) != wanted.get(key)
    ]
    if differing:
        raise ValueError(f"{out} holds a finished run with {', '.join(differing)}; choose another --out or remove it")
    return True


def run_all(runs: Sequence[Run], out: Path, train_main: Callable[[Sequence[str]], int] = train.main) -> int:
    """Run or continue what is not finished; return the exit status: 0, 1 if some failed, 130 if stopped."""
    # All folders are looked at before the first run begins, which may take days.
    open_runs = [run for run in runs if not is_finished(run, out / run.name)]
    failed = 0
    for run in runs:
        folder = out / run.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METHOD_FILE).write_text(run.method + "\n")
        if run not in open_runs:
            print(f"{run.name}: finished already")
            continue
        print(f"{run.name}: {'continuing' if (folder / CHECKPOINT).exists() else 'starting'}", flush=True)
        status = train_main(arguments(run, folder))
        if status == train.INTERRUPTED:
            print("stopped; the same command continues", file=sys.stderr)
            return status
        if status:
            print(f"{run.name}: failed with status {status}", file=sys.stderr)
            failed = 1
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (a run failed), 2 (bad input) or 130 (stopped)."""
    parser = argparse.ArgumentParser(prog="python -m host.experiment", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("config", nargs="*", type=Path, help="TOML file of a run; none: only write the table")
    parser.add_argument("--out", type=Path, default=Path("build/experiment"), help="folder (default: %(default)s)")
    for name, text in LOCAL.items():
        parser.add_argument(f"--{name}", type=all_options()[name].kind, help=f"{text} (default: as in its file)")
    given = parser.parse_args(argv)
    changes = {name: value for name in LOCAL if (value := getattr(given, name)) is not None}
    try:
        runs = [read_run(path, changes) for path in given.config]
        names = [run.name for run in runs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two configuration files are named {', '.join(twice)}, and would share a folder")
        status = run_all(runs, given.out)
        written = write_comparison(given.out, names)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("wrote " + ", ".join(str(path) for path in written))
    return status


if __name__ == "__main__":
    sys.exit(main())
