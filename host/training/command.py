"""The command `python -m host.train`: options, start, progress, end.

Without arguments: a small CNN on real digits on the simulated board, with FracTrain's PFQ schedule, to the end. The
folder --out receives metrics.jsonl, summary.json, checkpoint.npz, plots and report.md; without --out every run gets a
new one. Ctrl-C stops after the current batch and keeps a checkpoint; --resume continues bit for bit. No run is replaced
unless --replace says so.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from host.backends import open_board
from host.data.datasets import load_dataset
from host.data.subset import Subset
from host.errors import AcceleratorError
from host.interrupt import INTERRUPTED
from host.training.checkpoint import Checkpoint, write_atomically
from host.training.config import TrainConfig, all_options
from host.training.display import passing_bar, train_visibly
from host.training.folder import CHECKPOINT, DEFAULT, SUMMARY, claim
from host.training.report import write_report
from host.training.summary import summarise
from host.training.trainer import DivergedError, Trainer


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (the run failed), 2 (bad input) or 130 (stopped)."""
    options = vars(_parser().parse_args(arguments))
    resume, replace = options.pop("resume"), options.pop("replace")
    checkpoint_seconds = options.pop("checkpoint_seconds")
    try:
        with claim(options.pop("out"), resume=resume, replace=replace) as out:
            config = _settings(options, out, resume)
            dataset = Subset.parse(config.subset).of(load_dataset(config.data))
            how = {"config": config.accelerator, **({"device": config.device} if config.on_torch else {})}
            with closing(open_board(config.board, **how)) as board:
                trainer = Trainer(config, board, dataset, out, checkpoint_seconds=checkpoint_seconds)
                if resume and (out / CHECKPOINT).exists():
                    trainer.resume()
                elif config.init_from:
                    trainer.start_from(Path(config.init_from))
                if trainer.has_ended and (out / SUMMARY).exists():
                    print(f"the run in {out} has ended; more --epochs would lengthen it")
                    return 0
                return _run(trainer)
    except (ValueError, OSError, RuntimeError) as error:
        return _fail(str(error), status=2)
    except KeyboardInterrupt:
        print("interrupted before the run began", file=sys.stderr)
        return INTERRUPTED


def _run(trainer: Trainer) -> int:
    """From the first batch to the report; return the exit status. Whatever ends the run leaves a checkpoint."""
    out = trainer.out
    again = f"continue with: python -m host.train --out {shlex.quote(str(out))} --resume"
    schedule = trainer.config.schedule
    if missed := schedule.out_of_reach(trainer.iterations):
        print(
            f"warning: {trainer.iterations} iterations are too few for --schedule {schedule.name}: nothing "
            f"will be trained at {', '.join(missed)}; give more --epochs, a smaller --batch, or other stages",
            file=sys.stderr,
        )
    print(f"training in {out}", file=sys.stderr)
    step_by = trainer.learner.step_by
    done_by = f"passes of the device step are computed by {step_by}" if step_by else "the host computes around products"
    print(done_by, file=sys.stderr)
    try:
        with _stop_on_signal() as stop:
            finished = train_visibly(trainer, stop)
        if not finished:
            done = f"{trainer.progress.iteration} of {trainer.iterations} iterations"
            print(f"stopped after {done}; {again}", file=sys.stderr)
            return INTERRUPTED
        with passing_bar("static FW8/BW8 reference", "iteration") as on_part:
            summary = summarise(
                trainer.config, trainer.board, trainer.dataset, trainer.progress, on_part, step_by=step_by
            )
        write_report(out, trainer.progress.records, summary)
        # Last, as it stands for a run that has ended.
        write_atomically(out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    except (DivergedError, AcceleratorError) as error:
        return _fail(str(error), status=1)
    except OSError as error:
        return _fail(f"{error}; once that is mended, {again}", status=1)
    except KeyboardInterrupt:
        print(f"interrupted; {again}", file=sys.stderr)
        return INTERRUPTED
    print(f"test accuracy {summary['test_accuracy']:.2%}; report in {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m host.train", description=(__doc__ or "").partition("\n\n")[2])
    for option in all_options().values():
        option.add_to(parser)
    parser.add_argument(
        "--out",
        type=_folder,
        help=f"folder of the run (default: {DEFAULT}, or the first of {DEFAULT}-2, -3, ... after the last run)",
    )
    old = parser.add_mutually_exclusive_group()
    old.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out, or else the last one in a default folder, with the settings it has; more "
        "--epochs lengthen it",
    )
    old.add_argument("--replace", action="store_true", help="begin anew in --out though it holds a run, which is lost")
    parser.add_argument(
        "--checkpoint-seconds",
        type=_seconds,
        default=30.0,
        help="time between checkpoints inside an epoch; 0: after every iteration (default: %(default)s)",
    )
    return parser


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("is empty, must name a folder")
    return Path(text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if (value := float(text)) >= 0:
            return value
    raise argparse.ArgumentTypeError(f"is {text}, must be a number of seconds, 0 or more")


def _settings(given: dict[str, Any], out: Path, resume: bool) -> TrainConfig:
    """The settings given, or those of the checkpoint if resuming; contradictions raise ValueError."""
    if not resume:
        return TrainConfig.of(**given)
    if not (out / CHECKPOINT).exists():
        print(f"{out} holds no checkpoint yet: starting from the beginning", file=sys.stderr)
        return TrainConfig.of(**given)
    return Checkpoint.read(out / CHECKPOINT).config.resumed_with(given)


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to stop between two batches; the second one interrupts.

    A board must not be left in the middle of a command, so the batch in progress is always finished first.
    """
    requested = False

    def handle(number: int, frame: Any) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        print("\nstopping after this batch; once more to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
