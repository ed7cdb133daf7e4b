"""Augmentation of CIFAR, as FracTrain trains it: a random crop after padding, and a random horizontal flip.

What happens to a sample depends on (seed, epoch, number of the sample) alone. It is therefore the same however an epoch
is cut into batches, and a run continues anywhere without any state beside the iteration.
"""

from __future__ import annotations

import numpy as np


class Augmentation:
    """Random crops of the original size out of images padded with zeros, half of them mirrored left to right.

    Parameters
    ----------
    seed : of all choices.
    samples : number of samples in an epoch.
    padding : pixels of zeros (black) on every side.
    """

    def __init__(self, seed: int, samples: int, padding: int = 4):
        self.seed, self.samples, self.padding = seed, samples, padding
        self._epoch: int | None = None

    def choices(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """For every sample: corner of its crop, int64 (samples, 2) in 0 to 2 * padding, and whether it flips, bool."""
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, 4, epoch])
            self._corners = rng.integers(0, 2 * self.padding + 1, (self.samples, 2))
            self._flips = rng.random(self.samples) < 0.5
            self._epoch = epoch
        return self._corners, self._flips

    def __call__(self, codes: np.ndarray, index: np.ndarray, epoch: int) -> np.ndarray:
        """Some samples in the form that they have in an epoch.

        Parameters
        ----------
        codes : uint8 (samples, C, H, W), all samples; they stay as they are.
        index : int64 (N,), numbers of the samples wanted.
        epoch : from 0.

        Returns
        -------
        uint8 (N, C, H, W).
        """
        corners, flips = (choice[index] for choice in self.choices(epoch))
        pad = self.padding
        images = np.pad(codes[index], ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        height, width = codes.shape[2:]
        across = np.arange(width)
        rows = corners[:, :1] + np.arange(height)
        columns = corners[:, 1:] + np.where(flips[:, None], across[::-1], across)
        samples, channels = np.arange(len(index))[:, None, None, None], np.arange(codes.shape[1])[:, None, None]
        return images[samples, channels, rows[:, None, :, None], columns[:, None, None, :]]
