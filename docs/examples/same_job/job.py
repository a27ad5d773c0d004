"""Fit a polynomial by gradient descent, and return the loss on held-out points: the job of both."""

import numpy as np


def train(lr, degree):
    """Return the mean squared error after 200 steps."""
    x = np.linspace(-1, 1, 40)
    y = np.sin(3 * x) + np.random.default_rng(0).normal(0, 0.1, 40)
    powers = x[:, None] ** np.arange(degree + 1)
    weights = np.zeros(degree + 1)
    for _ in range(200):
        errors = powers[::2] @ weights - y[::2]
        weights -= lr * powers[::2].T @ errors / len(errors)
    return float(np.mean((powers[1::2] @ weights - y[1::2]) ** 2))
