import pytest
from fixtures import pytest_configure, rng  # noqa: F401

from host import open_board


@pytest.fixture(scope="module")
def board():
    """The golden model, for modules that do not say otherwise."""
    board = open_board("golden")
    yield board
    board.close()
