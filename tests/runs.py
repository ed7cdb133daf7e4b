"""Training runs for the tests: nine iterations on the golden board, and all that they leave behind."""

import json

from host.training.checkpoint import load_checkpoint

#: Iterations of `SETTINGS`: 3 epochs of 22 samples in batches of 8, 8 and 6.
ITERATIONS = 9
SETTINGS = {"board": "golden", "step": "host", "epochs": 3, "batch": 8, "lr": 0.05}
#: With PFQ, the default schedule, all stages come in so few iterations.
SOON = {"guard": 0.5, "indicator_every": 1}


def settings(changes: dict) -> dict:
    """`SETTINGS` with changes."""
    return {**SETTINGS, **({} if "schedule" in changes else SOON), **changes}


def options(data, out, /, **changes):
    given = settings({"data": data, "out": out, **changes})
    return [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def results(out):
    """All that a run leaves behind, without the seconds that it took and what the host did meanwhile."""
    arrays, meta = load_checkpoint(out / "checkpoint.npz")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert records == meta["progress"]["records"]
    for record in (*records, meta["progress"]):
        record.pop("seconds")
    for name in ("host_seconds", "host_work"):
        meta["progress"].pop(name)
    meta["progress"].pop("records")
    return {name: array.tobytes() for name, array in arrays.items()}, meta, records
