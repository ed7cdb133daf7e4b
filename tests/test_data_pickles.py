"""CIFAR's Python files: pickles, which may hold anything and are read with care."""

import io
import os
import pickle
import struct

import numpy as np
import pytest

from host.data.datasets import load_dataset

RNG = np.random.default_rng(41)


class OldPickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, in which CIFAR's files were made."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)

    def save_str(self, text):
        self.save_bytes(text.encode())

    dispatch[bytes], dispatch[str] = save_bytes, save_str


def old_pickle(value):
    stream = io.BytesIO()
    OldPickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def new_pickle(value):
    return pickle.dumps(value, protocol=4)


def python_batch(count, labels="labels", first=0):
    data = RNG.integers(0, 256, (count, 3072)).astype(np.uint8)
    return {"data": data, labels: [first + i for i in range(count)], "batch_label": "batch", "filenames": ["a.png"]}


@pytest.mark.parametrize("dump", [old_pickle, new_pickle])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cifar_python(dump, order, tmp_path):
    batches = [python_batch(4), python_batch(3), python_batch(2)]
    for name, batch in zip(("data_batch_1", "data_batch_2", "test_batch"), batches, strict=True):
        batch["data"] = np.asarray(batch["data"], order=order)
        (tmp_path / name).write_bytes(dump(batch))
    dataset = load_dataset(str(tmp_path))
    assert dataset.image == (3, 32, 32)
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert np.array_equal(dataset.train.codes[4:].reshape(3, -1), batches[1]["data"])
    assert np.array_equal(dataset.test.codes.reshape(2, -1), batches[2]["data"])


def test_cifar100_python(tmp_path):
    for name, count in (("train", 4), ("test", 2)):
        (tmp_path / name).write_bytes(old_pickle(python_batch(count, "fine_labels", first=95)))
    assert load_dataset(str(tmp_path)).classes == 99
    (tmp_path / "test").write_bytes(old_pickle(python_batch(2)))
    with pytest.raises(ValueError, match=r"test: holds batch_label, data, filenames, labels; expected fine_labels"):
        load_dataset(str(tmp_path))


class Hostile:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Hostile(os.system, "true"), "asks for posix.system"),
        ({"data": Hostile(eval, "1")}, "asks for builtins.eval"),
        ({"data": np.zeros(3072), "labels": [0]}, "another type than uint8"),
        ({"data": np.array([print])}, "asks for builtins.print"),
        ({"data": Hostile(np.ndarray, (1,)), "labels": [0]}, "damaged"),
        ({"data": b"text", "labels": [0]}, "data is bytes, expected an array"),
        ({"data": np.zeros((1, 3073), np.uint8), "labels": [0]}, r"data is \(1, 3073\), expected an array"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "labels is 1, expected a list of 2"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "label 10, expected 0 to 9; not CIFAR-10"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [True]}, "expected a list of 1 whole numbers"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "no images"),
        ([1, 2], "a pickled list, expected a dictionary"),
    ],
)
def test_pickles_that_are_not_cifar(value, message, tmp_path):
    (tmp_path / "data_batch_1").write_bytes(new_pickle(value))
    with pytest.raises(ValueError, match=r"data_batch_1: .*" + message):
        load_dataset(str(tmp_path))


def test_damaged_pickles_are_named(tmp_path):
    path, whole = tmp_path / "data_batch_1", old_pickle(python_batch(1))
    for damaged in (b"", b"not a pickle", whole[:40], whole[: len(whole) // 2], whole[:-1], whole[:100] + whole[140:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"data_batch_1: {len(damaged)} bytes that are no pickle"):
            load_dataset(str(tmp_path))
