"""Strategies, one file each. For one of your own: `unborn`, `fresh` and `spread` make births that are no duplicates."""

from evo_tune.strategies._births import fresh, spread, unborn

__all__ = ["fresh", "spread", "unborn"]
