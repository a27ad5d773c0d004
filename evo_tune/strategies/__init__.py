"""Strategies, one file each.

A strategy in a file of your own can use `spread`, `fresh` and `unseen`, which propose no genome twice, and `fold_seed`
for random decisions in a fold.
"""

from evo_tune.strategies._proposals import fold_seed, fresh, spread, unseen

__all__ = ["fold_seed", "fresh", "spread", "unseen"]
