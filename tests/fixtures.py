"""What both tiers of tests share: random numbers, and a word on what is not installed."""

import os
from importlib.util import find_spec

import numpy as np
import pytest


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Generator seeded by FRACTRAIN_TEST_SEED (default 1) and the test's name; a failing test shows the seed."""
    seed = int(os.environ.get("FRACTRAIN_TEST_SEED", "1"))
    print(f"FRACTRAIN_TEST_SEED={seed}")
    return np.random.default_rng([seed, *request.node.nodeid.encode()])


def pytest_configure(config) -> None:
    """Say once what to install, where every file would fail to import it."""
    if missing := [
        name for name in ("cocotb", "cocotbext", "hypothesis", "array_api_strict", "zmq") if not find_spec(name)
    ]:
        raise pytest.UsageError(f"the tests need {', '.join(missing)}: python -m pip install -e '.[test]'")
