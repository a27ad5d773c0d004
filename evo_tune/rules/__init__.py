"""The rules around any strategy: rungs, pruning, extra seeds, constraints."""
