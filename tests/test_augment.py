"""Augmentation: every image against a plain crop, and what the choices depend on."""

import numpy as np
import pytest

from host.data.augment import Augmentation

CODES = np.random.default_rng(50).integers(1, 256, (40, 3, 8, 6)).astype(np.uint8)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_every_image_is_a_crop_of_the_padded_one(padding):
    augmentation = Augmentation(7, len(CODES), padding)
    corners, flips = augmentation.choices(3)
    result = augmentation(CODES, np.arange(40), 3)
    assert result.dtype == np.uint8
    for code, (top, left), flip, image in zip(CODES, corners, flips, result, strict=True):
        padded = np.zeros((3, 8 + 2 * padding, 6 + 2 * padding), np.uint8)
        padded[:, padding : padding + 8, padding : padding + 6] = code
        crop = padded[:, top : top + 8, left : left + 6]
        assert np.array_equal(image, crop[:, :, ::-1] if flip else crop)


def test_the_split_into_batches_does_not_matter():
    order = np.random.default_rng(1).permutation(40)
    whole = Augmentation(7, 40)(CODES, order, 2)
    parts = Augmentation(7, 40)
    assert np.array_equal(whole, np.concatenate([parts(CODES, part, 2) for part in np.split(order, [1, 17, 18])]))


def test_it_continues_from_the_epoch_alone():
    first = Augmentation(7, 40)
    earlier = first(CODES, np.arange(40), 0)
    later = first(CODES, np.arange(40), 1)
    assert not np.array_equal(earlier, later)
    assert np.array_equal(Augmentation(7, 40)(CODES, np.arange(40), 1), later)
    assert np.array_equal(first(CODES, np.arange(40), 0), earlier)
    assert not np.array_equal(Augmentation(8, 40)(CODES, np.arange(40), 1), later)


def test_choices_are_uniform():
    corners, flips = Augmentation(7, 90_000).choices(0)
    counts = np.bincount(9 * corners[:, 0] + corners[:, 1], minlength=81)
    # 81 counts with a deviation of 33: 5 of them.
    assert np.max(np.abs(counts - 90_000 / 81)) < 5 * 34
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / 300


def test_the_samples_stay_as_they_are():
    kept = CODES.copy()
    Augmentation(7, 40)(CODES, np.arange(40), 0)
    assert np.array_equal(CODES, kept)
