"""Optimizers, losses and gradients, and the checks for divergence and overfitting."""
