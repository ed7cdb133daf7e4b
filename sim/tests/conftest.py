from fixtures import pytest_configure, rng  # noqa: F401


def pytest_generate_tests(metafunc):
    """A test with a parameter `case` runs once for each cocotb test of its file."""
    if "case" in metafunc.fixturenames:
        from sim.tests.bench import cases  # here, so that a missing library is named first

        metafunc.parametrize("case", cases(metafunc.module))
