"""The context of one evaluation: device, seed, budget, folders, and the report of its learning curve."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evo_tune.genome.trial import DECAYED, Objective, TrialCode

# Environment variables from which libraries take their number of threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


# Files of a killed evaluation that the next attempt finds in the trial's folder, if the first of them is there.
UNFINISHED = ("unfinished.pt", "checkpoint.pt")

# Metrics of a timing: the share that deterministic algorithms add to the time of a step, and, with the name of an
# operator after it, that the operator has no deterministic algorithm.
DETERMINISM, NOT_DETERMINISTIC = "determinism", "not deterministic: "


class Pruned(BaseException):
    """The learning curve passed a bound. Raised by `Context.report`; evaluators do not catch it."""


class Context:
    """Context of one evaluation: all that it is given besides its genome.

    Args:
        device: Device to train on: 'cpu', 'cuda:0', 'mps'.
        threads: Number of CPU threads, already set for torch when `evaluate` is called.
        seed: Seed for everything random.
        budget: Fraction of the full training to do, 0 < budget ≤ 1. Schedules are those of the full training, whatever
            the budget.
        folder: Path of the trial's folder, which is made on first use.
        resume_folder: Folder of the trial to resume from, or None.
        stop_if: Bounds (fraction, metric, loss): the trial is pruned if the metric, as a loss, is above the bound.
        objectives: Objectives of the run; they give the signs of the metrics in `stop_if`.
        test: Whether to evaluate on the test set. It is true in the final comparison and in `export`, whose results no
            strategy sees.
        timing: Number of steps to time; 0 in a training. It is above 0 only if SUPPORTS has 'timing': then train so
            many steps and return {'seconds': time of the full training with its evaluations} and the other metrics that
            `forecast.timing` reads. Nothing of it is recorded.
        ends_at: Time in seconds of `time.monotonic` by which an `export` should end its training; infinite: no limit.
        code: Project and patches of the trial, in a run with patches.
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
        ends_at: float = math.inf,
        code: TrialCode | None = None,
    ) -> None:
        self.device = device
        self.threads = threads
        self.seed = seed
        self.budget = budget
        self.resume_folder = None if resume_folder is None else Path(resume_folder)
        self.test = test
        self.timing = timing
        self.ends_at = ends_at
        self.code = code
        # Predictions of an exported model for its held-out samples by part, which evo-tune's tasks note here for an
        # ensemble; None: they are not wanted.
        self.predictions: dict[str, Any] | None = None
        self._folder = Path(folder)
        self._stop_if = tuple(stop_if)
        self.objectives = tuple(objectives)
        self._signs = {objective.metric: objective.sign for objective in objectives}
        self.curve: list[tuple[float, dict[str, float]]] = []

    @property
    def attempted(self) -> bool:
        """Whether the trial's folder exists: an earlier attempt may have left the files in `UNFINISHED` there."""
        return self._folder.is_dir()

    @property
    def folder(self) -> Path:
        """The trial's folder for logs and checkpoints; made on first use."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def report(self, fraction: float, *, decayed: bool | None = None, **metrics: float) -> None:
        """Add a point to the learning curve.

        Args:
            fraction: Share of the full training done, 0 < fraction ≤ 1.
            decayed: Whether the final decay of the learning rate has begun: losses before and after it are not
                comparable. It is recorded with the metrics as 1 or 0. None: not recorded, and treated as False.
            metrics: Metrics at this point.

        Raises:
            ValueError: The fraction is out of range, or a metric is not a number.
            Pruned: The curve passed a bound. Bounds do not apply after the decay has begun.
        """
        self.report_all(fraction, metrics, decayed)

    def report_all(self, fraction: float, metrics: Mapping[str, float], decayed: bool | None = None) -> None:
        """Add a point as `report` does, for metrics with any names, such as those of another program."""
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"report(fraction={fraction!r}): expected more than 0 and at most 1")
        try:
            point = {name: float(value) for name, value in metrics.items()}
        except (TypeError, RuntimeError) as error:  # a tensor of several numbers raises RuntimeError
            raise ValueError(f"report({fraction}, {dict(metrics)}): expected numbers") from error
        if decayed is not None:
            point[DECAYED] = float(bool(decayed))
        self.curve.append((float(fraction), point))
        for bound_fraction, metric, bound in self._stop_if:
            loss = self._signs.get(metric, 1.0) * point.get(metric, -math.inf)
            if fraction >= bound_fraction and metric in point and not decayed and not loss <= bound:
                raise Pruned(f"{metric}={point[metric]:.6g} at {fraction:.0%} is beyond its bound")
