"""What a run shows as it goes: a bar of its iterations, a line for each epoch, and bars of what takes time between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from host.training.trainer import Trainer


def train_visibly(trainer: Trainer, stop: Callable[[], bool]) -> bool:
    """Run the loop under its bars; return whether it reached the end."""
    with (
        tqdm(total=trainer.iterations, initial=trainer.progress.iteration, unit="batch", smoothing=0.1) as bar,
        passing_bar("test split", "image", below=True) as on_test,
    ):

        def on_step(loss: float, precision: Any) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}, {precision}", refresh=False)
            bar.update()

        def on_epoch(record: Any) -> None:
            bar.write(
                f"epoch {record['epoch'] + 1:3}  loss {record['loss']:.4f}  train {record['train_accuracy']:.2%}  "
                f"test {record['test_accuracy']:.2%}  FW{record['fw']}/BW{record['bw']}"
                + "".join(f"  switch at {switch['iteration']}" for switch in record["stage_switches"])
            )

        return trainer.run(stop, on_step, on_test, on_epoch)


@contextmanager
def passing_bar(what: str, unit: str, *, below: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function that is told how much of how much is done, and shows it on a bar until all is.

    It may count to the end again and again. `below` puts the bar under one that stays.
    """
    bar: tqdm | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=what, unit=unit, leave=False, position=int(below))
        bar.update(done - bar.n)
        if done == total:
            bar.close()
            bar = None

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
