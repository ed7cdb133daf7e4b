"""Where arrays change from one library or device to another: here and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array, is_torch_array, to_device

#: An array of any library that follows the array API standard.
Array = Any


def to_numpy(array: Array) -> np.ndarray:
    """The numbers of `array` in numpy, of the same dtype; a view of the same memory where there is one."""
    if is_torch_array(array):
        return array.detach().cpu().numpy()
    return np.asarray(array)


def match(array: Array, like: Array) -> Array:
    """The numbers of `array` in the library and on the device of `like`; the dtype stays."""
    if is_numpy_array(like):
        return to_numpy(array)
    xp = array_namespace(like)
    if not is_numpy_array(array) and array_namespace(array) is xp:
        return to_device(array, device(like))
    # Other libraries share numpy's memory where they can; they want it whole, forwards and writable.
    return xp.asarray(np.require(to_numpy(array), requirements=["C", "W"]), device=device(like))
