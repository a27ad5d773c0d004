"""The forest's place among strategies; it lies in `genome`, where reports find it too."""

from evo_tune.genome.forest import Forest

__all__ = ["Forest"]
