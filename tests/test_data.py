"""Data sets: what is read, and what is said of damaged files."""

import gzip
import struct

import numpy as np
import pytest

from host.data import load_dataset

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


def test_unknown_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set 'cats': neither digits nor a folder"):
        load_dataset("cats")
    with pytest.raises(ValueError, match="holds neither train-images"):
        load_dataset(str(tmp_path))
