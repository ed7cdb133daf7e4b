"""Checkpoints: one .npz file without pickle, replaced as a whole or not at all."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from host.arrays import to_numpy

#: Raised with every change that older files cannot satisfy.
FORMAT = 1
#: The array that holds everything but arrays, as JSON text.
_META = "meta"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` so that a reader, or a kill or power cut at any moment, sees the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_checkpoint(path: Path, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write arrays of any library and JSON values to `path`, atomically."""
    stream = io.BytesIO()
    text = json.dumps({"format": FORMAT, **meta})
    np.savez(stream, **{_META: np.array(text)}, **{name: to_numpy(array) for name, array in arrays.items()})
    write_atomically(path, stream.getvalue())


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: (arrays, meta).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or of another format; the message names it.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop(_META)))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError) as error:
        raise ValueError(f"{path}: not a checkpoint, or damaged ({error})") from None
    if meta.get("format") != FORMAT:
        raise ValueError(f"{path}: checkpoint format {meta.get('format')}, this program reads {FORMAT}")
    return arrays, meta
