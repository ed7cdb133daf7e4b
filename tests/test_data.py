"""Data sets: what is read, and what is said of damaged files."""

import gzip
import io
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from host.data.datasets import load_dataset

RNG = np.random.default_rng(40)


def idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder in MNIST's form: 20 training and 6 test images of 5 x 4 pixels; the test images gzipped."""
    for prefix, count in (("train", 20), ("t10k", 6)):
        images = RNG.integers(0, 256, (count, 5, 4))
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(count) % 3))
    plain = tmp_path / "t10k-images-idx3-ubyte"
    plain.with_name(plain.name + ".gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return tmp_path


@pytest.fixture
def cifar(tmp_path):
    for name, count in (("data_batch_1.bin", 5), ("data_batch_2.bin", 4), ("test_batch.bin", 3)):
        records = RNG.integers(0, 256, (count, 3073)).astype(np.uint8)
        records[:, 0] = np.arange(count) % 10
        (tmp_path / name).write_bytes(records.tobytes())
    return tmp_path


def test_digits_are_those_of_scikit_learn():
    pixels, classes = load_digits(return_X_y=True)
    expected = sorted((*image.astype(int).tolist(), int(label)) for image, label in zip(pixels, classes, strict=True))
    dataset = load_dataset("digits")
    found = [
        (*codes.reshape(-1).tolist(), int(label))
        for split in (dataset.train, dataset.test)
        for codes, label in zip(split.codes, split.labels, strict=True)
    ]
    assert sorted(found) == expected


@pytest.mark.parametrize("found", [None, "elsewhere"])
def test_digits_that_lie_elsewhere(monkeypatch, tmp_path, found):
    """A scikit-learn that keeps the file in another place is asked for it."""
    spec = None if found is None else SimpleNamespace(origin=str(tmp_path / "sklearn" / "__init__.py"))
    expected = load_dataset("digits").test.codes
    monkeypatch.setattr("host.data.datasets.find_spec", lambda name: spec)
    np.testing.assert_array_equal(load_dataset("digits").test.codes, expected)


def test_digits_split_is_fixed_and_stratified():
    first, second = load_dataset("digits"), load_dataset("digits")
    assert (len(first.train), len(first.test), first.classes, first.image) == (1438, 359, 10, (1, 8, 8))
    assert np.array_equal(first.test.codes, second.test.codes)
    share = np.bincount(first.test.labels) / (np.bincount(first.test.labels) + np.bincount(first.train.labels))
    assert np.all(np.abs(share - 0.2) < 0.005)


def test_images_are_normalised():
    dataset = load_dataset("digits")
    images = dataset.images(dataset.train, slice(None))
    assert images.dtype == np.float32
    assert images.mean() == pytest.approx(0, abs=1e-5)
    assert images.std() == pytest.approx(1, abs=1e-5)
    assert np.array_equal(dataset.images(dataset.train, np.array([5, 3])), images[[5, 3]])


def test_idx_folder(mnist):
    dataset = load_dataset(str(mnist))
    assert (len(dataset.train), len(dataset.test), dataset.classes, dataset.image) == (20, 6, 3, (1, 5, 4))
    raw = (mnist / "train-images-idx3-ubyte").read_bytes()
    assert dataset.train.codes[0, 0, 0].tolist() == list(raw[16:20])
    assert dataset.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_cifar_folder(cifar):
    dataset = load_dataset(str(cifar))
    assert (len(dataset.train), len(dataset.test), dataset.image) == (9, 3, (3, 32, 32))
    raw = (cifar / "data_batch_2.bin").read_bytes()
    assert dataset.train.codes[5].tobytes() == raw[1:3073]
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]


def test_truncated_files_are_named(mnist):
    path = mnist / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte: 409 bytes, expected 416 for 20 x 5 x 4"):
        load_dataset(str(mnist))
    path.write_bytes(whole[:9])
    with pytest.raises(ValueError, match=r"9 bytes, expected at least the 16 of an IDX header"):
        load_dataset(str(mnist))
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=r"417 bytes, expected 416"):
        load_dataset(str(mnist))


def test_damaged_gzip_is_named(mnist):
    path = mnist / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz: damaged gzip file"):
        load_dataset(str(mnist))


def test_other_kinds_of_idx_are_refused(mnist):
    path = mnist / "train-labels-idx1-ubyte"
    path.write_bytes(b"\0\0\x0d\1" + path.read_bytes()[4:])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte: begins with 00000d01, expected 00000801"):
        load_dataset(str(mnist))


def test_counts_must_agree(mnist):
    (mnist / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(19)))
    with pytest.raises(ValueError, match=r"19 labels, expected 20 as train-images-idx3-ubyte has images"):
        load_dataset(str(mnist))


@pytest.mark.parametrize(
    ("file", "labels", "message"),
    [
        (
            "train",
            RNG.integers(0, 256, 20),
            r"train-labels-idx1-ubyte: label \d+, expected 0 to 61, as MNIST's kin has",
        ),
        (
            "train",
            [0, 1, 2, 4] * 5,
            "train-labels-idx1-ubyte: labels up to 4, but no 3; expected classes without a gap",
        ),
        (
            "t10k",
            [0, 1, 2, 3, 0, 1],
            "t10k-labels-idx1-ubyte: label 3, but those of train-labels-idx1-ubyte end with 2",
        ),
    ],
)
def test_labels_that_are_no_classes_are_named(file, labels, message, mnist):
    (mnist / f"{file}-labels-idx1-ubyte").write_bytes(idx_bytes(np.array(labels)))
    with pytest.raises(ValueError, match=message):
        load_dataset(str(mnist))


def test_classes_may_begin_with_1(mnist):
    for file, count in (("train", 20), ("t10k", 6)):
        (mnist / f"{file}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(count) % 3 + 1))
    assert load_dataset(str(mnist)).classes == 4


def test_missing_files_are_named(mnist):
    (mnist / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-labels\*: missing"):
        load_dataset(str(mnist))


def test_damaged_cifar_files_are_named(cifar):
    path = cifar / "data_batch_1.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: 15364 bytes, expected a multiple of 3073"):
        load_dataset(str(cifar))
    path.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: label 11, expected 0 to 9"):
        load_dataset(str(cifar))
    path.write_bytes(whole)
    (cifar / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin: missing"):
        load_dataset(str(cifar))


def test_missing_batches_are_named(cifar):
    (cifar / "data_batch_2.bin").rename(cifar / "data_batch_3.bin")
    with pytest.raises(FileNotFoundError, match=r"data_batch_2\.bin: missing from the CIFAR-10 folder"):
        load_dataset(str(cifar))


def test_cifar100_binary(tmp_path):
    for name, count in (("train.bin", 5), ("test.bin", 3)):
        records = RNG.integers(0, 256, (count, 3074)).astype(np.uint8)
        records[:, 0], records[:, 1] = 7, np.arange(count) + 90
        (tmp_path / name).write_bytes(records.tobytes())
    dataset = load_dataset(str(tmp_path))
    assert dataset.train.labels.tolist() == [90, 91, 92, 93, 94]
    assert dataset.test.codes[2].tobytes() == (tmp_path / "test.bin").read_bytes()[-3072:]
    records[:, 0] = 20
    (tmp_path / "test.bin").write_bytes(records.tobytes())
    with pytest.raises(ValueError, match=r"test\.bin: coarse label 20, expected 0 to 19; not CIFAR-100"):
        load_dataset(str(tmp_path))
    # A file of CIFAR-10 under this name has records of another size.
    (tmp_path / "test.bin").write_bytes(bytes(3073))
    with pytest.raises(ValueError, match=r"test\.bin: 3073 bytes, expected a multiple of 3074 \(2 label bytes"):
        load_dataset(str(tmp_path))


def jpeg(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def jpegs(tmp_path):
    """Arrays of a JPEG file: flat images, whose colours survive the coding, and the path that it is to have."""
    arrays = {"names": np.array(["cat", "dog"])}
    for prefix, colours in (("train", ((200, 30, 60), (10, 200, 90), (5, 5, 5))), ("test", ((250, 250, 250),))):
        files = [jpeg(np.full((16, 24, 3), colour, np.uint8)) for colour in colours]
        arrays[f"{prefix}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{prefix}_offsets"] = np.cumsum([0, *map(len, files)]).astype(np.uint32)
        arrays[f"{prefix}_labels"] = (np.arange(len(files)) % 2).astype(np.uint8)
    return arrays, tmp_path / "flat.npz"


def test_jpeg_file(jpegs, tmp_path):
    arrays, path = jpegs
    np.savez(path, **arrays)
    dataset = load_dataset(str(path))
    assert (len(dataset.train), len(dataset.test), dataset.classes, dataset.image) == (3, 1, 2, (3, 16, 24))
    assert np.max(np.abs(dataset.train.codes[0, :, 3, 4].astype(int) - [200, 30, 60])) <= 4
    assert dataset.train.labels.tolist() == [0, 1, 0]
    # It is decoded once, by its path or by its folder, until it changes.
    assert load_dataset(str(tmp_path)) is dataset
    assert not dataset.train.codes.flags.writeable
    arrays["names"] = np.array(["cat", "dog", "cow"])
    np.savez(path, **arrays)
    assert load_dataset(str(path)) is not dataset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "holds names, .*; expected also test_labels"),
        ({"train_jpeg": np.zeros(5)}, r"train_jpeg is float64\(5,\), expected bytes"),
        ({"train_labels": np.zeros(3)}, r"train_labels is float64\(3,\), expected whole numbers"),
        ({"names": np.array("cat")}, r"names is <U3\(\), expected the classes in one dimension"),
        ({"train_labels": np.zeros(2, int)}, "4 train_offsets for 2 labels, expected one more"),
        ({"train_labels": np.array([0, 2, 0])}, "train_labels from 0 to 2, expected 0 to 1"),
        ({"test_offsets": np.array([0, 9])}, "test_offsets run from 0 to 9, expected to rise from 0 to"),
    ],
)
def test_damaged_jpeg_files_are_named(changes, message, jpegs):
    arrays, path = jpegs
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    with pytest.raises(ValueError, match=r"flat\.npz: .*" + message):
        load_dataset(str(path))


def test_damaged_jpeg_images_are_numbered(jpegs):
    arrays, path = jpegs
    whole, ends = arrays["train_jpeg"], arrays["train_offsets"]
    broken = whole.copy()
    broken[ends[1] : ends[1] + 20] = 0
    np.savez(path, **(arrays | {"train_jpeg": broken}))
    with pytest.raises(ValueError, match=r"flat\.npz: train image 1 is no JPEG of \d+ bytes"):
        load_dataset(str(path))
    other = np.frombuffer(jpeg(np.zeros((16, 16, 3), np.uint8)), np.uint8)
    mixed = {"train_jpeg": np.concatenate([whole[: ends[2]], other]), "train_offsets": ends.copy()}
    mixed["train_offsets"][3] = ends[2] + len(other)
    np.savez(path, **(arrays | mixed))
    with pytest.raises(ValueError, match=r"train image 2 is 16 x 16, expected 16 x 24 as the first"):
        load_dataset(str(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"flat\.npz: not an \.npz file, or damaged"):
        load_dataset(str(path))


@pytest.mark.skipif(not os.environ.get("FRACTRAIN_DATA"), reason="FRACTRAIN_DATA names no folder with a real data set")
def test_real_data():
    dataset = load_dataset(str(Path(os.environ["FRACTRAIN_DATA"])))
    assert dataset.classes in (10, 100)
    assert min(len(dataset.train), len(dataset.test)) >= 1000
    images = dataset.images(dataset.train, slice(0, 1000))
    assert abs(images.mean()) < 0.2
    assert abs(images.std() - 1) < 0.2
    assert len(np.unique(dataset.train.labels)) == dataset.classes


def test_unknown_data(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data set 'cats': neither digits, nor an \.npz file"):
        load_dataset("cats")
    with pytest.raises(ValueError, match="the name of the data set is empty"):
        load_dataset("")
    with pytest.raises(ValueError, match="holds neither train-images"):
        load_dataset(str(tmp_path))
