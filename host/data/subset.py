"""Parts of a data set, for adaptation to new classes and for fine-tuning (FracTrain, arXiv 2012.13113, table 5).

A specification is text: conditions separated by `/`, such as `classes=0-4` or `classes=0-2,7/fraction=0.5`; `rest=0.5`
is what `fraction=0.5` leaves. Both speak of the training split; `test=0.1` thins the other one, for a quick look.
Labels, their number and the normalisation stay those of the whole data set: a model trained on one part takes the
images of another without a change, its last layer included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from host.data.datasets import Dataset
from host.data.formats import Split

#: Seed of the samples that a fraction keeps; one for all runs, so that their accuracies compare.
_SEED = 5


@dataclass(frozen=True)
class Subset:
    """What of a data set is used.

    Attributes
    ----------
    classes : labels that are kept in both splits; empty for all.
    fraction : part of each class that is kept of the training split.
    rest : part of each class that is left out of it instead, the very samples that `fraction` would keep.
    test : part of each class that is kept of the test split. Accuracies compare between runs of the same part only.
    """

    classes: tuple[int, ...] = ()
    fraction: float = 1.0
    rest: float = 0.0
    test: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Subset:
        """Read a specification; empty text keeps everything.

        Raises
        ------
        ValueError
            If the text is no specification; the message names the condition and the forms there are.
        """
        values: dict[str, Any] = {}
        forms = {
            "classes": _ranges,
            "fraction": lambda value: _between(value, 1.0),
            "rest": lambda value: _between(value, np.nextafter(1.0, 0.0)),
            "test": lambda value: _between(value, 1.0),
        }
        for condition in filter(None, text.split("/")):
            name, _, value = condition.partition("=")
            try:
                if name in values or {name, *values} >= {"fraction", "rest"}:
                    raise ValueError
                values[name] = forms[name](value)
            except (ValueError, KeyError):
                raise ValueError(
                    f"subset {text!r}: {condition!r} is neither classes=0-4,7 nor fraction=0.1 (above 0, at most 1) "
                    "nor what that leaves, rest=0.1, nor test=0.1; each given once"
                ) from None
        return cls(**values)

    def of(self, dataset: Dataset) -> Dataset:
        """This part of `dataset`; raises ValueError for a class that it has not, or if a split would be empty."""
        if self == Subset():
            return dataset
        for label in self.classes:
            if label >= dataset.classes:
                raise ValueError(f"subset: class {label}, {dataset.name} has 0 to {dataset.classes - 1}")
        train, test = (_of_classes(split, self.classes) for split in (dataset.train, dataset.test))
        train, test = _thinned(train, self.fraction, self.rest), _thinned(test, self.test, 0.0)
        return Dataset(f"{dataset.name} {self}", train, test, whole=dataset)

    def __str__(self) -> str:
        """The specification, from which `parse` makes an equal object."""
        classes = [("classes", ",".join(map(str, self.classes)))] if self.classes else []
        parts = {"fraction": (self.fraction, 1.0), "rest": (self.rest, 0.0), "test": (self.test, 1.0)}
        given = [(name, value) for name, (value, default) in parts.items() if value != default]
        return "/".join(f"{name}={value}" for name, value in (*classes, *given))


def _between(text: str, most: float) -> float:
    if not 0 < (value := float(text)) <= most:
        raise ValueError
    return value


def _ranges(text: str) -> tuple[int, ...]:
    labels: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        members = range(int(first), int(last or first) + 1)
        if not members:
            raise ValueError
        labels.update(members)
    return tuple(sorted(labels))


def _of_classes(split: Split, classes: tuple[int, ...]) -> Split:
    if not classes:
        return split
    kept = np.isin(split.labels, classes)
    return Split(split.codes[kept], split.labels[kept])


def _thinned(split: Split, fraction: float, rest: float) -> Split:
    """A fraction of each class, at least one sample of it, or all but that; in the order of the split."""
    if fraction == 1 and not rest:
        return split
    rng = np.random.default_rng(_SEED)
    kept = np.zeros(len(split), bool)
    for label in np.unique(split.labels):
        members = rng.permutation(np.flatnonzero(split.labels == label))
        kept[members[: max(round((rest or fraction) * len(members)), 1)]] = True
    if rest:
        kept = ~kept
    return Split(split.codes[kept], split.labels[kept])
