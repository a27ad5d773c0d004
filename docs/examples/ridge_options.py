"""Ridge regression on sin(5x), its options declared once."""

from dataclasses import dataclass

import numpy as np

from evo_tune import Context, Float, Minimize, Options, SearchSpace, option


@dataclass(frozen=True, kw_only=True)
class Own(Options):
    """The data and the powers of x."""

    points: int = option(200, bounds="[10, 100000]", help="Number of points", gene=None)
    noise: float = option(0.1, bounds="[0, inf)", help="Standard deviation of the noise", gene=None)
    degree: int = option(5, bounds="[1, 15]", help="Largest power of x", gene="1|3|5|7|9")

    def check(self) -> None:
        """Raise an error of evo_tune.errors if options contradict each other."""


SPACE = SearchSpace(penalty=Float(1e-6, 1e3, log=True, default=1.0))
OBJECTIVES = [Minimize("val_error")]


def evaluate(genome: dict, context: Context, options: Own) -> dict[str, float]:
    """Fit on the first half, and judge on the second."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, options.points)
    y = np.sin(5.0 * x) + rng.normal(0.0, options.noise, options.points)
    powers, half = x[:, None] ** np.arange(options.degree + 1), options.points // 2
    square = powers[:half].T @ powers[:half] + genome["penalty"] * np.eye(options.degree + 1)
    weights = np.linalg.solve(square, powers[:half].T @ y[:half])
    return {"val_error": float(np.sqrt(np.mean((powers[half:] @ weights - y[half:]) ** 2)))}
