"""Models of losses over a space: points and numbers in, numbers out."""
