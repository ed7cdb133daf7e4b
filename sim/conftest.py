from fixtures import pytest_configure, rng  # noqa: F401
