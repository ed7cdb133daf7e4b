"""Ranges that a step takes from the one before."""

import numpy as np
import pytest

from host.step.ranges import Ranges, found


def refuse(largest):
    raise AssertionError("a range that is known was looked for")


def test_a_step_stores_by_the_largest_of_the_step_before_whatever_the_order_of_its_parts():
    ranges, turned = Ranges(), Ranges()
    parts = [np.array([1.0, 5.0]), np.array([4.0, 2.0]), np.array([3.0, 3.0])]
    for part in parts:
        ranges.see("y", lambda part=part: part)
    for part in reversed(parts):
        turned.see("y", lambda part=part: part)
    assert "y" not in ranges.last
    ranges.commit()
    turned.commit()
    assert ranges.last["y"].tolist() == turned.last["y"].tolist() == [4.0, 5.0]
    ranges.see("y", lambda: np.array([9.0, 9.0]))
    assert ranges.start("y", 100.0, refuse).tolist() == [4.0, 5.0]
    ranges.commit()
    assert ranges.start("y", 100.0, refuse).tolist() == [9.0, 9.0]
    again = Ranges()
    again.load(ranges.last)
    assert again.start("y", 100.0, refuse).tolist() == [9.0, 9.0]


@pytest.mark.parametrize("true", [0.9, 3e-3, 2e-7])
def test_a_first_step_finds_its_range(true):
    """By passes whose results have a few bits, as the device would run them again."""
    top, tried = 7, []

    def attempt(largest):
        tried.append(float(largest))
        unit = float(largest) / top
        return found(0, round(true / unit), top + 1, unit)

    largest = Ranges().start("dz", 1.0, attempt)
    assert true / 2 <= largest <= 4 * true
    assert len(tried) <= 8


def test_the_next_range_of_what_was_clipped_is_twice_as_large():
    assert found(np.array([-7, -3, 0]), np.array([2, 7, 0]), 7, 0.5).tolist() == [7.0, 7.0, 0.25]
    assert found(-5, 6, 7, 2.0) == 12.0
