"""The models, and the shapes that describe them."""
