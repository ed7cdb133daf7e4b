"""Random numbers of the tests."""

import os

import numpy as np
import pytest


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Generator seeded by FRACTRAIN_TEST_SEED (default 1) and the test's name; a failing test shows the seed."""
    seed = int(os.environ.get("FRACTRAIN_TEST_SEED", "1"))
    print(f"FRACTRAIN_TEST_SEED={seed}")
    return np.random.default_rng([seed, *request.node.nodeid.encode()])
