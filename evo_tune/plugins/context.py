"""What one evaluation is given beside its genome: device, seed, budget, folders, and where it reports its curve.

It knows nothing of evaluators' files, strategies or stores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from evo_tune.genome.trial import DECAYED, Objective

__all__ = ["THREAD_VARIABLES", "Context", "Pruned"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables of the environment by which libraries take the number of their threads."""


class Pruned(BaseException):
    """Raised by `Context.report` when a bound fixed at birth is passed; not for evaluators to catch."""


class Context:
    """What one evaluation is given beside its genome.

    Args:
        device: Where to train: 'cpu', 'cuda:0', 'mps'.
        threads: Number of CPU threads; already set for torch when evaluate is called.
        seed: Seed for everything random.
        budget: Fraction of the full training to do, 0 < budget ≤ 1. Schedules are laid over the full
            training whatever the budget.
        folder: Where `folder` will be; it is made on first use.
        resume_folder: Folder of the trial that this one goes on from, or None.
        stop_if: (fraction, metric, loss bound): stops as pruned once the metric, as a loss, is above.
        objectives: What counts of what is returned; they give the signs of the metrics in `stop_if`.
        test: Whether the test set may be looked at: what comes is told to people, and to no strategy. It is so in the
            trainings by which a calibration compares the best with the default, and in `export`.
        timing: Steps to be timed; 0 in every training. Above 0 only where the file says SUPPORTS 'timing': then train
            so many steps and return {'seconds': those of the full training, as a search would have it judged}, and
            what else `forecast.timing` reads. Nothing of it is told or kept.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: int = 1,
        seed: int = 0,
        budget: float = 1.0,
        folder: Path | str = "trial",
        resume_folder: Path | str | None = None,
        stop_if: Sequence[tuple[float, str, float]] = (),
        objectives: Sequence[Objective] = (),
        test: bool = False,
        timing: int = 0,
    ) -> None:
        self.device = device
        self.threads = threads
        self.seed = seed
        self.budget = budget
        self.resume_folder = None if resume_folder is None else Path(resume_folder)
        self.test = test
        self.timing = timing
        self._folder = Path(folder)
        self._stop_if = tuple(stop_if)
        self.objectives = tuple(objectives)
        self._signs = {objective.metric: objective.sign for objective in objectives}
        self.curve: list[tuple[float, dict[str, float]]] = []

    @property
    def folder(self) -> Path:
        """This trial's own folder, for logs and checkpoints; made on first use."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def report(self, fraction: float, *, decayed: bool | None = None, **metrics: float) -> None:
        """Add a point to the learning curve.

        Args:
            fraction: Share of the full training done, 0 < fraction ≤ 1.
            decayed: Whether the learning rate's final fall has begun: losses before and after it do not compare. The
                point has it beside its metrics, as 1 or 0. None: it does not say, and counts as one before.
            metrics: Values at this point.

        Raises:
            ValueError: The fraction is out of range, or a metric is not a number.
            Pruned: A bound fixed at birth is passed. Bounds are for points before the fall.
        """
        self.report_all(fraction, metrics, decayed)

    def report_all(self, fraction: float, metrics: Mapping[str, float], decayed: bool | None = None) -> None:
        """As `report`, for metrics of any names: those of another program."""
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"report(fraction={fraction!r}): expected more than 0 and at most 1")
        try:
            point = {name: float(value) for name, value in metrics.items()}
        except (TypeError, RuntimeError) as error:  # a tensor of several numbers raises RuntimeError
            raise ValueError(f"report({fraction}, {dict(metrics)}): expected numbers") from error
        if decayed is not None:
            point[DECAYED] = float(bool(decayed))
        self.curve.append((float(fraction), point))
        for at, metric, bound in self._stop_if:
            loss = self._signs.get(metric, 1.0) * point.get(metric, -math.inf)
            if fraction >= at and metric in point and not decayed and not loss <= bound:
                raise Pruned(f"{metric}={point[metric]:.6g} at {fraction:.0%} is beyond its bound")
