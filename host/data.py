"""Data sets: scikit-learn's digits, folders of IDX files (MNIST and its kin), and CIFAR-10's binary folder.

Images are kept as they come, 8-bit integers (N, C, H, W); `Dataset.images` normalises a batch when it is needed.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Shape of a CIFAR-10 record: one label byte, then a colour plane each for red, green and blue.
_CIFAR_IMAGE = (3, 32, 32)
#: Part of the digits that is held back for testing.
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,)."""

    codes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class Dataset:
    """A training and a test split, normalised per channel to mean 0 and variance 1 over the training split.

    Raises
    ------
    ValueError
        If a split is empty, or the two differ in the size of their images.
    """

    def __init__(self, name: str, train: Split, test: Split):
        for split in (train, test):
            if not len(split):
                raise ValueError(f"{name}: a split without images")
        if train.codes.shape[1:] != test.codes.shape[1:]:
            raise ValueError(f"{name}: training images {train.codes.shape[1:]}, test images {test.codes.shape[1:]}")
        self.name, self.train, self.test = name, train, test
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

    def images(self, split: Split, index: np.ndarray | slice) -> np.ndarray:
        """Normalised images float32 (N, C, H, W) of some samples."""
        mean, deviation = self._mean[:, None, None], self._deviation[:, None, None]
        return ((split.codes[index] - mean) / deviation).astype(np.float32)


def load_dataset(name: str) -> Dataset:
    """Load `digits`, or a folder that holds the IDX files of MNIST and its kin or CIFAR-10's binary batches.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If the folder is of no known kind or a file is damaged; the message names the file, what was found and expected.
    """
    if name == "digits":
        return _digits()
    folder = Path(name)
    if not folder.is_dir():
        raise FileNotFoundError(f"no data set {name!r}: neither digits nor a folder")
    if any(folder.glob("data_batch_*.bin")):
        train = [_cifar_file(path) for path in sorted(folder.glob("data_batch_*.bin"))]
        codes = np.concatenate([split.codes for split in train])
        labels = np.concatenate([split.labels for split in train])
        return Dataset(folder.name, Split(codes, labels), _cifar_file(folder / "test_batch.bin"))
    if any(folder.glob("train-images*")):
        return Dataset(folder.name, _idx_split(folder, "train"), _idx_split(folder, "t10k"))
    raise ValueError(f"{folder}: holds neither train-images* (IDX) nor data_batch_*.bin (CIFAR-10)")


def _digits() -> Dataset:
    """1,797 real handwritten digits, 8 x 8 pixels of 17 grey levels (UCI, through scikit-learn).

    One split for all runs: of every class, a fifth drawn with a fixed seed is for testing (1,438 and 359 images).
    """
    from sklearn.datasets import load_digits  # here, as its import takes a second

    source = load_digits()
    codes = source.images.astype(np.uint8)[:, None]
    labels = source.target.astype(np.int64)
    rng = np.random.default_rng(0)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        test[members[: round(_TEST_SHARE * len(members))]] = True
    return Dataset("digits", Split(codes[~test], labels[~test]), Split(codes[test], labels[test]))


def _cifar_file(path: Path) -> Split:
    """One batch of CIFAR-10's binary version: records of a label byte and 3,072 pixel bytes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing from the CIFAR-10 folder")
    raw = np.fromfile(path, np.uint8)
    record = 1 + math.prod(_CIFAR_IMAGE)
    if not raw.size or raw.size % record:
        raise ValueError(f"{path}: {raw.size} bytes, expected a multiple of {record} (one label, 3 x 32 x 32 pixels)")
    records = raw.reshape(-1, record)
    if records[:, 0].max() > 9:
        raise ValueError(f"{path}: label {records[:, 0].max()}, expected 0 to 9; not CIFAR-10's binary version")
    return Split(records[:, 1:].reshape(-1, *_CIFAR_IMAGE), records[:, 0].astype(np.int64))


def _idx_split(folder: Path, prefix: str) -> Split:
    image_path, label_path = _idx_path(folder, f"{prefix}-images"), _idx_path(folder, f"{prefix}-labels")
    codes, labels = _read_idx(image_path, dimensions=3), _read_idx(label_path, dimensions=1)
    if len(codes) != len(labels):
        raise ValueError(f"{label_path}: {len(labels)} labels, expected {len(codes)} as {image_path.name} has images")
    return Split(codes[:, None], labels.astype(np.int64))


def _idx_path(folder: Path, prefix: str) -> Path:
    found = sorted(path for path in folder.glob(f"{prefix}*") if path.is_file())
    if not found:
        raise FileNotFoundError(f"{folder / prefix}*: missing from the folder of IDX files")
    return found[0]


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes, gzipped or not: two zero bytes, type 8, dimension count, big-endian sizes, the data."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file of {len(raw)} bytes ({error})") from None
    header = 4 + 4 * dimensions
    if len(raw) < header:
        raise ValueError(f"{path}: {len(raw)} bytes, expected at least the {header} of an IDX header")
    magic = bytes((0, 0, 8, dimensions))
    if raw[:4] != magic:
        raise ValueError(f"{path}: begins with {raw[:4].hex()}, expected {magic.hex()} (IDX, bytes, {dimensions}-D)")
    sizes = [int(size) for size in np.frombuffer(raw, ">u4", dimensions, offset=4)]
    if len(raw) != header + math.prod(sizes):
        shape = " x ".join(map(str, sizes))
        raise ValueError(f"{path}: {len(raw)} bytes, expected {header + math.prod(sizes)} for {shape} bytes of data")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(sizes)
