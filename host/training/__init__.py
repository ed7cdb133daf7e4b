"""A training run: its configuration, its loop, what it writes, and what it cost."""
