"""What surrounds any strategy: rungs, pruning, extra seeds, constraints."""
