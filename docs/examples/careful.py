"""Stops a hopeless training early."""

import math

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(0.01, 10.0, log=True, default=0.1))
OBJECTIVES = [Minimize("loss")]


class Diverged(RuntimeError):
    """A training that makes no sense any more."""

    status = "diverged"


def evaluate(genome, context, *, steps: int = 50):
    """Descend, and raise as soon as the loss cannot recover."""
    x = 1.0
    for step in range(steps):
        x -= genome["lr"] * 2.0 * x
        if not math.isfinite(x) or abs(x) > 1e6:
            raise Diverged(f"x = {x:g} at step {step}")
    return {"loss": x**2}
