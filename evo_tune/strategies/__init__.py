"""Strategies, one file each.

For one of your own: `unborn`, `fresh` and `spread` make births that are no duplicates; `fold_seed` is luck in a fold.
"""

from evo_tune.strategies._births import fresh, spread, unborn
from evo_tune.strategies._luck import fold_seed

__all__ = ["fold_seed", "fresh", "spread", "unborn"]
