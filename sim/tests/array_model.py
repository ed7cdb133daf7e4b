"""The array in plain Python: what its buffers hold and what one step does. For the testbenches of its units."""

from __future__ import annotations

import numpy as np

from rtl.config import BEAT_WORDS, GROUP_LANES, GROUPS, LANES, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.control import ROW_BANKS


def subset_sums(digits: np.ndarray, signed: bool) -> np.ndarray:
    """Table entries of one row, shape (16 entries, 36 groups): 6-bit codes as they are written.

    `digits` has 144 values, -8..7 or 0..15; sums of signed ones are stored plus 32.
    """
    entries = np.arange(1 << GROUP_LANES)[:, None] >> np.arange(GROUP_LANES) & 1
    sums = entries @ digits.reshape(GROUPS, GROUP_LANES).T
    return sums + (32 if signed else 0)


def pack_entries(entries: np.ndarray) -> int:
    """36 codes of 6 bits as one number, group 0 lowest."""
    return sum(int(code) << 6 * group for group, code in enumerate(entries))


class ClusterModel:
    """Buffers of one cluster.

    Attributes
    ----------
    words : uint16 codes, (row bank, column bank, address).
    digits : (context, row, lane), as numbers.
    sums : (position, row), exact.
    """

    def __init__(self, config: AcceleratorConfig):
        self.words = np.zeros((ROW_BANKS, BEAT_WORDS, config.stream_depth), np.int64)
        self.digits = np.zeros((2, config.rows, LANES), np.int64)
        self.sums = np.zeros((config.result_depth, config.rows), object)
        self._acc = np.zeros(config.rows, object)

    def step(self, s: dict) -> None:
        """One plane-cycle; `s` has the fields of `rtl.control.step`."""
        bits = np.zeros((TAPS, WORD_CHANNELS), np.int64)
        for tap in range(TAPS):
            i, j = s["row"][tap // 3], s["column"][tap % 3]
            if not s["kill"] >> tap & 1:
                bits[tap] = self.words[i, j, s["addr"][i][j]] >> np.arange(WORD_CHANNELS) & 1
        product = self.digits[s["context"]] @ bits.reshape(LANES) * (s["weight"] << (12 if s["upper"] else 0))
        if s["first"]:
            self._acc = np.zeros_like(self._acc) if s["clear"] else self.sums[s["position"]].copy()
        self._acc = self._acc + product
        if s["last"]:
            self.sums[s["position"]] = self._acc
