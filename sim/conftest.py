from fixtures import rng  # noqa: F401
