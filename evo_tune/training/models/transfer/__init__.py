"""Models whose recipe can be carried to another size: what has to move with width and depth, and how to check it."""
