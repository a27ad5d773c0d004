"""Shapes of models, and their parametrisation by size."""
