"""`python -m host.train`: train a network on a board at a precision that changes while it trains.

The command itself is `host.training.command`, which takes a while to load; Ctrl-C is quiet meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from host.interrupt import INTERRUPTED, quiet_imports

__all__ = ["INTERRUPTED", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (the run failed), 2 (bad input) or 130 (stopped)."""
    with quiet_imports():
        from host.training.command import run
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
