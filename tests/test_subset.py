"""Parts of a data set: what is kept, and what is read and written as text."""

import numpy as np
import pytest

from host.data.datasets import Dataset
from host.data.formats import Split
from host.data.subset import Subset


def tiny(count=40, classes=4):
    codes = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    return Dataset("tiny", Split(codes, np.arange(count) % classes), Split(codes, np.arange(count) % classes))


def test_subset_of_classes_keeps_labels_and_normalisation():
    whole = tiny()
    part = Subset.parse("classes=1,3").of(whole)
    assert (len(part.train), len(part.test), part.classes) == (20, 20, 4)
    assert set(part.train.labels) == set(part.test.labels) == {1, 3}
    assert np.array_equal(part.images(part.train, slice(1)), whole.images(whole.train, slice(1, 2)))
    assert Subset.parse("classes=0-2").of(whole).train.labels.max() == 2
    assert Subset.parse("").of(whole) is whole


def test_subset_fraction_takes_a_share_of_each_class():
    whole = tiny()
    part = Subset.parse("fraction=0.2").of(whole)
    assert np.bincount(part.train.labels).tolist() == [2, 2, 2, 2]
    assert len(part.test) == 40
    assert np.array_equal(part.train.codes, Subset.parse("fraction=0.2").of(whole).train.codes)
    assert np.bincount(Subset.parse("classes=0/fraction=0.01").of(whole).train.labels).tolist() == [1]


def test_the_rest_is_what_a_fraction_leaves():
    whole = tiny()
    part, rest = (Subset.parse(f"classes=1-3/{kind}=0.3").of(whole) for kind in ("fraction", "rest"))
    together = [split.codes.reshape(len(split), -1).tolist() for split in (part.train, rest.train)]
    wanted = Subset.parse("classes=1-3").of(whole).train
    assert sorted(together[0] + together[1]) == sorted(wanted.codes.reshape(len(wanted), -1).tolist())
    assert len(part.train) == 9
    assert len(rest.test) == len(part.test)


def test_the_test_split_is_thinned_where_asked():
    whole = tiny()
    part = Subset.parse("classes=0-1/fraction=0.5/test=0.2").of(whole)
    assert np.bincount(part.train.labels).tolist() == [5, 5]
    assert np.bincount(part.test.labels).tolist() == [2, 2]
    assert np.array_equal(part.test.codes, Subset.parse("classes=0-1/test=0.2").of(whole).test.codes)
    assert len(Subset.parse("test=0.2").of(whole).train) == 40


@pytest.mark.parametrize("text", ["classes=0-4,7", "fraction=0.25", "classes=3/fraction=0.5", "rest=0.25/test=0.5", ""])
def test_subset_reads_what_it_writes(text):
    subset = Subset.parse(text)
    assert Subset.parse(str(subset)) == subset


@pytest.mark.parametrize(
    "text",
    [
        "cats",
        "classes=",
        "classes=a",
        "classes=4-1",
        "classes=-1",
        "fraction=0",
        "fraction=1.5",
        "fraction=.1/fraction=.2",
        "fraction=.1/rest=.1",
        "rest=.1/fraction=.1",
        "rest=1",
        "test=0",
        "test=.1/test=.2",
    ],
)
def test_bad_subsets_are_refused(text):
    with pytest.raises(ValueError, match=r"is neither classes=0-4,7 nor fraction=0\.1"):
        Subset.parse(text)


def test_subset_of_classes_that_are_not_there():
    with pytest.raises(ValueError, match="class 4, tiny has 0 to 3"):
        Subset.parse("classes=4").of(tiny())
