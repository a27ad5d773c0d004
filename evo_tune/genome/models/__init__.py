"""Models of losses over a search space, from points and numbers to numbers."""
