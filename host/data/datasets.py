"""Data sets by name or path, their normalisation, and their parts.

Images are kept as they come, 8-bit integers (N, C, H, W), and decoded once per process; `Dataset.normalised` turns a
batch into numbers when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from host.data.formats import (
    CIFAR10,
    CIFAR100,
    Cifar,
    Split,
    read_cifar_binary,
    read_cifar_python,
    read_idx,
    read_jpeg_npz,
)

#: Part of the digits that is held back for testing.
_TEST_SHARE = 0.2
#: What a folder may hold, for messages.
_KINDS = (
    "train-images* (IDX), data_batch_1.bin or data_batch_1 (CIFAR-10), train.bin or train (CIFAR-100), "
    "nor one .npz file (JPEG)"
)


class Dataset:
    """A training and a test split, normalised per channel to mean 0 and variance 1 over the training split.

    Parameters
    ----------
    name : of the data set, for messages and reports.
    train, test : the splits.
    whole : the data set that this is a part of; its number of classes and its normalisation hold here too.

    Raises
    ------
    ValueError
        If a split is empty, or the two differ in the size of their images.
    """

    def __init__(self, name: str, train: Split, test: Split, whole: Dataset | None = None):
        for split in (train, test):
            if not len(split):
                raise ValueError(f"{name}: a split without images")
        if train.codes.shape[1:] != test.codes.shape[1:]:
            raise ValueError(f"{name}: training images {train.codes.shape[1:]}, test images {test.codes.shape[1:]}")
        self.name, self.train, self.test = name, train, test
        if whole:
            self.classes, self._mean, self._deviation = whole.classes, whole._mean, whole._deviation
            return
        self.classes = int(max(train.labels.max(), test.labels.max())) + 1
        axes = (0, 2, 3)
        self._mean = train.codes.mean(axis=axes, dtype=np.float64)
        # A channel that never changes carries nothing; dividing by 1 keeps it at 0.
        deviation = train.codes.std(axis=axes, dtype=np.float64)
        self._deviation = np.where(deviation > 0, deviation, 1)

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of an image: (C, H, W)."""
        return self.train.codes.shape[1:]

    def normalised(self, codes: np.ndarray) -> np.ndarray:
        """uint8 (N, C, H, W) -> float32 (N, C, H, W)."""
        mean, deviation = self._mean[:, None, None], self._deviation[:, None, None]
        return ((codes - mean) / deviation).astype(np.float32)

    def images(self, split: Split, index: np.ndarray | slice) -> np.ndarray:
        """Normalised images float32 (N, C, H, W) of some samples."""
        return self.normalised(split.codes[index])


def load_dataset(name: str) -> Dataset:
    """Load `digits`, an .npz file of JPEG images, or a folder.

    A folder holds the IDX files of MNIST and its kin, CIFAR-10 or CIFAR-100 in the binary or the Python version, or one
    .npz file of JPEG images.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or one of its files is missing.
    ValueError
        If the folder is of no known kind or a file is damaged; the message names the file, what was found and expected.
    """
    if name == "digits":
        return _digits()
    path = Path(name)
    if not name:
        raise ValueError("the name of the data set is empty, must be digits, an .npz file or a folder")
    if path.is_file() and path.suffix == ".npz":
        return _jpeg(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no data set {name!r}: neither digits, nor an .npz file, nor a folder")
    for suffix, read in ((".bin", read_cifar_binary), ("", read_cifar_python)):
        if any(path.glob(f"data_batch_[0-9]{suffix}")):
            return _cifar(path, _batches(path, suffix), f"test_batch{suffix}", CIFAR10, read)
        if (path / f"train{suffix}").is_file():
            return _cifar(path, [f"train{suffix}"], f"test{suffix}", CIFAR100, read)
    if any(path.glob("train-images*")):
        return Dataset(path.name, *read_idx(path))
    archives = list(path.glob("*.npz"))
    if len(archives) == 1:
        return _jpeg(archives[0])
    raise ValueError(f"{path}: holds neither {_KINDS}")


def _batches(folder: Path, suffix: str) -> list[str]:
    """Names of CIFAR-10's training files, which are numbered from 1 without a gap."""
    names = sorted(path.name for path in folder.glob(f"data_batch_[0-9]{suffix}"))
    last = int(names[-1].removeprefix("data_batch_").removesuffix(suffix))
    return [f"data_batch_{number}{suffix}" for number in range(1, last + 1)]


def _cifar(folder: Path, train: list[str], test: str, kind: Cifar, read: Callable[[Path, Cifar], Split]) -> Dataset:
    parts = [read(folder / name, kind) for name in train]
    codes = np.concatenate([part.codes for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return Dataset(folder.name, Split(codes, labels), read(folder / test, kind))


def _jpeg(path: Path) -> Dataset:
    status = path.stat()
    return _decoded(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _decoded(path: Path, modified: int, size: int) -> Dataset:
    """The data set of a JPEG file, decoded once for every state of the file: decoding takes seconds."""
    train, test = read_jpeg_npz(path)
    for split in (train, test):
        split.codes.setflags(write=False)
        split.labels.setflags(write=False)
    return Dataset(path.stem, train, test)


def _digits() -> Dataset:
    """1,797 real handwritten digits, 8 x 8 pixels of 17 grey levels (UCI, through scikit-learn).

    One split for all runs: of every class, a fifth drawn with a fixed seed is for testing (1,438 and 359 images).
    """
    table = _digits_table()
    codes, labels = table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)
    rng = np.random.default_rng(0)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        test[members[: round(_TEST_SHARE * len(members))]] = True
    return Dataset("digits", Split(codes[~test], labels[~test]), Split(codes[test], labels[test]))


def _digits_table() -> np.ndarray:
    """uint8 (1797, 65): the pixels of each image and its class.

    The file is read where scikit-learn keeps it: importing the package, and SciPy with it, costs 90 MB and a second.
    """
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package and package.origin else None
    if file is not None and file.is_file():
        return np.loadtxt(file, np.uint8, delimiter=",")
    from sklearn.datasets import load_digits  # it knows where else the file is, or says what to install

    pixels, classes = load_digits(return_X_y=True)
    return np.column_stack([pixels, classes]).astype(np.uint8)
