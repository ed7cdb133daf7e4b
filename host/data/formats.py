"""Readers of data set files: CIFAR's binary and Python versions, IDX (MNIST and its kin), JPEG images in an .npz file.

Every reader returns a `Split` of 8-bit images as they are stored. A damaged file raises ValueError that names the file,
what was found and what was expected; nothing read here can run code.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: Colour planes, rows and columns of a CIFAR image.
_CIFAR_IMAGE = (3, 32, 32)
_CIFAR_BYTES = math.prod(_CIFAR_IMAGE)
#: Coarse labels of CIFAR-100, which nothing uses.
_COARSE_CLASSES = 20
#: Classes of EMNIST, the most among MNIST's kin: digits, capital and small letters.
_IDX_CLASSES = 62


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,)."""

    codes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class Cifar(NamedTuple):
    """What tells the two CIFAR data sets apart.

    Attributes
    ----------
    name : as in messages.
    label_bytes : label bytes of a binary record; the last one counts, CIFAR-100's first is the coarse label.
    labels_key : list of labels in a file of the Python version.
    classes : number of labels.
    """

    name: str
    label_bytes: int
    labels_key: str
    classes: int


CIFAR10 = Cifar("CIFAR-10", 1, "labels", 10)
CIFAR100 = Cifar("CIFAR-100", 2, "fine_labels", 100)


def read_cifar_binary(path: Path, kind: Cifar) -> Split:
    """A file of the binary version: records of the label bytes and 3,072 pixel bytes."""
    raw = np.frombuffer(_read(path, kind.name), np.uint8)
    record = kind.label_bytes + _CIFAR_BYTES
    if not raw.size or raw.size % record:
        raise ValueError(
            f"{path}: {raw.size} bytes, expected a multiple of {record} "
            f"({kind.label_bytes} label bytes, 3 x 32 x 32 pixels) in {kind.name}"
        )
    records = raw.reshape(-1, record)
    if kind.label_bytes == 2 and (coarse := int(records[:, 0].max())) >= _COARSE_CLASSES:
        raise ValueError(f"{path}: coarse label {coarse}, expected 0 to {_COARSE_CLASSES - 1}; not {kind.name}")
    labels = _labels(path, records[:, kind.label_bytes - 1], kind)
    return Split(records[:, kind.label_bytes :].reshape(-1, *_CIFAR_IMAGE), labels)


def read_cifar_python(path: Path, kind: Cifar) -> Split:
    """A file of the Python version: a pickled dictionary with `data`, uint8 (N, 3072), and a list of labels.

    Only the few objects that CIFAR's files consist of are built; a pickle that asks for anything else is refused.
    """
    content = _unpickle(path, _read(path, kind.name))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a pickled {type(content).__name__}, expected a dictionary")
    content = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if missing := {"data", kind.labels_key} - content.keys():
        found = ", ".join(sorted(map(str, content)))
        raise ValueError(f"{path}: holds {found}; expected {' and '.join(sorted(missing))} in {kind.name}")
    codes, labels = content["data"], content[kind.labels_key]
    if isinstance(codes, _PickledArray):
        codes = codes.array
    if not isinstance(codes, np.ndarray) or codes.ndim != 2 or codes.shape[1] != _CIFAR_BYTES:
        shape = codes.shape if isinstance(codes, np.ndarray) else type(codes).__name__
        raise ValueError(f"{path}: data is {shape}, expected an array (N, {_CIFAR_BYTES})")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels) or len(labels) != len(codes):
        found = len(labels) if isinstance(labels, list) else type(labels).__name__
        raise ValueError(f"{path}: {kind.labels_key} is {found}, expected a list of {len(codes)} whole numbers")
    return Split(codes.reshape(-1, *_CIFAR_IMAGE), _labels(path, np.array(labels, np.int64), kind))


def read_idx(folder: Path) -> tuple[Split, Split]:
    """Training and test split of the IDX files train-images*, train-labels*, t10k-images* and t10k-labels*.

    They may be gzipped. A file of labels could hold any bytes, so they must make sense as classes: every number from 0
    or, as in EMNIST's letters, 1 up to at most 61 occurs in the training split, and no other in the test split.
    """
    (train, path), (test, test_path) = (_read_idx_split(folder, prefix) for prefix in ("train", "t10k"))
    if not len(train):
        raise ValueError(f"{path}: no labels")
    _check_class(path, train.labels, _IDX_CLASSES - 1, f"expected 0 to {_IDX_CLASSES - 1}, as MNIST's kin has")
    highest, found = int(train.labels.max()), set(train.labels.tolist())
    if missing := sorted(set(range(1, highest)) - found):
        raise ValueError(f"{path}: labels up to {highest}, but no {missing[0]}; expected classes without a gap")
    _check_class(test_path, test.labels, highest, f"but those of {path.name} end with {highest}")
    return train, test


def _check_class(path: Path, labels: np.ndarray, highest: int, expected: str) -> None:
    if len(labels) and labels.max() > highest:
        raise ValueError(f"{path}: label {labels.max()}, {expected}")


def _read_idx_split(folder: Path, prefix: str) -> tuple[Split, Path]:
    """A split, and the path of its labels."""
    image_path, label_path = _idx_path(folder, f"{prefix}-images"), _idx_path(folder, f"{prefix}-labels")
    codes, labels = _read_idx(image_path, dimensions=3), _read_idx(label_path, dimensions=1)
    if len(codes) != len(labels):
        raise ValueError(f"{label_path}: {len(labels)} labels, expected {len(codes)} as {image_path.name} has images")
    return Split(codes[:, None], labels.astype(np.int64)), label_path


def read_jpeg_npz(path: Path) -> tuple[Split, Split]:
    """Training and test split of an .npz file with JPEG images; both are decoded at once.

    For each of the prefixes `train` and `test` it holds PREFIX_jpeg, the files one after the other (uint8),
    PREFIX_offsets (N + 1 whole numbers: image i is bytes offsets[i] to offsets[i + 1]) and PREFIX_labels (N), and for
    both `names`, the classes.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: not an .npz file, or damaged ({error})") from None
    keys = {f"{prefix}_{part}" for prefix in ("train", "test") for part in ("jpeg", "offsets", "labels")} | {"names"}
    if missing := keys - arrays.keys():
        found = ", ".join(sorted(arrays))
        raise ValueError(f"{path}: holds {found}; expected also {', '.join(sorted(missing))}")
    train, test = (_jpeg_split(path, prefix, arrays) for prefix in ("train", "test"))
    return train, test


def _read(path: Path, kind: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing from the {kind} folder")
    return path.read_bytes()


def _labels(path: Path, labels: np.ndarray, kind: Cifar) -> np.ndarray:
    if not labels.size:
        raise ValueError(f"{path}: no images")
    for label in (labels.min(), labels.max()):
        if not 0 <= label < kind.classes:
            raise ValueError(f"{path}: label {label}, expected 0 to {kind.classes - 1}; not {kind.name}")
    return labels.astype(np.int64)


# The pickles of CIFAR's Python version ------------------------------------------------------------------------------


class _PickledArray:
    """Stands in for an array while a pickle is read: takes the state of a byte array, and nothing else.

    numpy's own functions are not called on what a file says, so that a hostile shape or type cannot reach them.
    """

    array: np.ndarray = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _PickledType) or dtype.name not in ("u1", b"u1") or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array of another type than uint8")
        if math.prod(shape) != len(raw):
            raise pickle.UnpicklingError(f"an array of {shape} with {len(raw)} bytes")
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _PickledType:
    """Stands in for a numpy type while a pickle is read."""

    def __init__(self, name: Any, *flags: Any):
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which a type of one byte does not need."""


def _make_array(*what: Any) -> _PickledArray:
    return _PickledArray()


#: The functions and classes named in CIFAR's pickles, and what stands in for them. numpy 2 renamed its module.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _make_array,
    ("numpy._core.multiarray", "_reconstruct"): _make_array,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
}


class _CifarUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return _ALLOWED[module, name]


def _unpickle(path: Path, raw: bytes) -> Any:
    try:
        return _CifarUnpickler(io.BytesIO(raw), encoding="bytes").load()
    # A damaged pickle is a program that goes wrong anywhere, within the objects allowed above.
    except Exception as error:
        raise ValueError(
            f"{path}: {len(raw)} bytes that are no pickle of CIFAR's Python version, or damaged ({error})"
        ) from None


# IDX ----------------------------------------------------------------------------------------------------------------


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


# JPEG ---------------------------------------------------------------------------------------------------------------


def _jpeg_split(path: Path, prefix: str, arrays: dict[str, np.ndarray]) -> Split:
    from PIL import Image  # here, as only these files need it

    jpeg, offsets, labels = (arrays[f"{prefix}_{part}"] for part in ("jpeg", "offsets", "labels"))
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1:
        raise ValueError(f"{path}: {prefix}_jpeg is {jpeg.dtype}{jpeg.shape}, expected bytes in one dimension")
    for name, array in ((f"{prefix}_offsets", offsets), (f"{prefix}_labels", labels)):
        if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
            raise ValueError(f"{path}: {name} is {array.dtype}{array.shape}, expected whole numbers in one dimension")
    if len(offsets) != len(labels) + 1 or not len(labels):
        raise ValueError(f"{path}: {len(offsets)} {prefix}_offsets for {len(labels)} labels, expected one more")
    ends = offsets.astype(np.int64)
    if ends[0] != 0 or ends[-1] != len(jpeg) or np.any(np.diff(ends) <= 0):
        raise ValueError(
            f"{path}: {prefix}_offsets run from {ends[0]} to {ends[-1]}, expected to rise from 0 to {len(jpeg)}"
        )
    if (names := arrays["names"]).ndim != 1:
        raise ValueError(f"{path}: names is {names.dtype}{names.shape}, expected the classes in one dimension")
    classes = len(names)
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{path}: {prefix}_labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    codes = np.empty(0, np.uint8)
    for number in range(len(labels)):
        data = jpeg[ends[number] : ends[number + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path}: {prefix} image {number} is no JPEG of {len(data)} bytes ({error})") from None
        if number == 0:
            codes = np.empty((len(labels), 3, *pixels.shape[:2]), np.uint8)
        if pixels.shape[:2] != codes.shape[2:]:
            size, first = (" x ".join(map(str, shape)) for shape in (pixels.shape[:2], codes.shape[2:]))
            raise ValueError(f"{path}: {prefix} image {number} is {size}, expected {first} as the first")
        codes[number] = pixels.transpose(2, 0, 1)
    return Split(codes, labels.astype(np.int64))
