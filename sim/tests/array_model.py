"""The array in plain Python: what its buffers hold and what one step does. For the testbenches of its units."""

from __future__ import annotations

import numpy as np

from rtl.config import BEAT_WORDS, FLAT_TAPS, GROUP_LANES, GROUPS, LANES, TAPS, WORD_CHANNELS, AcceleratorConfig
from rtl.control import ROW_BANKS, SIDE, Form


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


def shifted(bits: np.ndarray, left: int, right: int, form: Form) -> np.ndarray:
    """Lanes (tap, lane) of a weight gradient's words moved along the rows of images that `form` says."""
    words = {Form.TWO: 2, Form.THREE: 3, Form.FOUR: 4}.get(form, 1)
    columns = {Form.QUARTERS: 4, Form.HALVES: 8}.get(form, 16 * words)
    lanes = np.concatenate([bits[list(FLAT_TAPS)].reshape(-1), np.zeros(-TAPS % words * 16, bits.dtype)])
    rows = np.pad(lanes.reshape(-1, columns), ((0, 0), (1, 1)))
    moved = rows[:, :-2] if left else rows[:, 2:] if right else rows[:, 1:-1]
    found = np.zeros_like(bits)
    found[list(FLAT_TAPS)] = moved.reshape(-1)[: bits.size].reshape(bits.shape)
    return found


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
            i = s["row"][tap // 3]
            j = s["column"][i][tap % 3]
            if not s["kill"] >> tap & 1:
                bits[tap] = self.words[i, j, s["addr"][i][j]] >> np.arange(WORD_CHANNELS) & 1
        bits = shifted(bits, **s["shift"])
        product = self.digits[s["context"]] @ bits.reshape(LANES) * (s["weight"] << (12 if s["upper"] else 0))
        if s["first"]:
            self._acc = np.zeros_like(self._acc) if s["clear"] else self.sums[s["position"]].copy()
        self._acc = self._acc + product
        if s["last"]:
            self.sums[s["position"]] = self._acc


def random_choice(rng: np.random.Generator, config: AcceleratorConfig) -> dict:
    """What a step chooses of the words it reads, and how far their lanes move, where they can."""
    moved = int(rng.integers(3)) if config.vector else 0
    return {
        "column": rng.integers(BEAT_WORDS, size=(ROW_BANKS, SIDE)).tolist(),
        "row": rng.integers(ROW_BANKS, size=SIDE).tolist(),
        "kill": int(rng.integers(1 << TAPS)) if rng.random() < 0.3 else 0,
        "shift": {"left": int(moved == 1), "right": int(moved == 2), "form": Form(int(rng.integers(len(Form))))},
    }
