"""A moving average of the weights, kept beside them: often a better model than the last step's.

It is another model and is judged as one: its metrics stand beside the raw weights', never in their place. Its decay
is warmed up: with 0.999 from the start, the average after 372 steps would still be 69 % the first weights. Loads no
torch (see `stepping.averaging`).
"""

from __future__ import annotations

from dataclasses import dataclass

from evo_tune.options.declare import Options, option

__all__ = ["Averaging", "warmed_up"]


@dataclass(frozen=True, kw_only=True)
class Averaging(Options):
    """A moving average of the weights."""

    ema: float | None = option(
        None, bounds="[0, 1)", help="Its decay, warmed up; it is judged beside them as val_loss_ema; none: none is kept"
    )


def warmed_up(decay: float, update: int) -> float:
    """Return the decay of an update: min(decay, (1 + t) / (10 + t)).

    As TensorFlow's ExponentialMovingAverage does with `num_updates`: the average reaches about a ninth of the training
    back, until that is as far as `decay` goes.

    Args:
        decay: What it rises to, below 1.
        update: Number t of the update, from 1.
    """
    return min(decay, (1.0 + update) / (10.0 + update))
