"""What surrounds any strategy: rungs, pruning, replicates, constraints."""
