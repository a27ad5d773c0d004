"""A rung's fork: where a training at its peak is left to be judged, and how the learning rate comes down there.

At the peak of the learning rate a loss is not yet what a long training has reached: that shows as the rate falls
(Hägele et al., arXiv:2405.18392). So a rung of a wsd training is a whole one in small: up to the fork it is the full
training itself, whose state is kept, and from there a decay of its own share of the rung is trained, judged and thrown
away. Both together take as many steps as the rung has. Arithmetic only: no torch, and nothing of searches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from evo_tune.options.bounds import check_integer
from evo_tune.recipe.optim.schedule import DECAYS, Schedule

__all__ = ["Tail", "fork_step"]


def fork_step(schedule: Schedule, stop: int) -> int:
    """Return the step at which a training that is to stop at `stop` leaves its full schedule to decay.

    Args:
        schedule: Laid over the full training.
        stop: From 1.

    Returns:
        `stop` where nothing forks: at the end of the full training, under another schedule than wsd, or in one step.
    """
    if schedule.name != "wsd" or stop >= schedule.steps or stop < 2:
        return stop
    return max(1, stop - max(1, round(schedule.decay_fraction * stop)))


@dataclass(frozen=True, kw_only=True)
class Tail(Schedule):
    """A wsd schedule that comes down before its time.

    Args:
        fork: The step with which the decay begins.
        stop: The step at which it is over, more than `fork`.

    Raises:
        RecipeError: A field is out of its range.
    """

    fork: int
    stop: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("fork", self.fork, 0)
        check_integer("stop", self.stop, self.fork + 1, self.steps)

    @classmethod
    def of(cls, schedule: Schedule, fork: int, stop: int) -> Tail:
        """Return a schedule that leaves another one at a step."""
        return cls(**asdict(schedule), fork=fork, stop=stop)

    def __call__(self, step: int) -> float:
        """See `Schedule`; from the fork on it falls from where it is as the whole would, to `min_lr_ratio`."""
        if step < self.fork:
            return super().__call__(step)
        top = super().__call__(self.fork)
        bottom = min(top, self.min_lr_ratio)  # a fork may lie in the warm-up
        u = min(1.0, (step - self.fork + 1) / (self.stop - self.fork + 1))  # a decay of one step is half way down
        return bottom + (top - bottom) * DECAYS[self.decay_shape](u)

    def decayed(self, step: int) -> bool:
        """See `Schedule`."""
        return step > self.fork or super().decayed(step)
