"""A run as rows for other tools: one row for each candidate, independent of the tool.

Names and texts may come from a stranger, so each is one printable line here. Numbers are finite, and times are between
1970 and 2100.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from evo_tune.genome.trial import DECAYED
from evo_tune.genome.values import Value
from evo_tune.store.heartbeat import Curve
from evo_tune.store.run import Run
from evo_tune.text import one_line

# Steps of a full training: tools index curves by whole numbers, and a step is a thousandth.
WHOLE = 1000

# End of 2099 in seconds since 1970; later times are clipped.
LATEST = 4102444800.0

# Maximum length of a name in characters.
NAME = 100

# No result yet; full training; partial training; stopped by its learning curve; failed.
State: TypeAlias = Literal["open", "whole", "part", "pruned", "failed"]

# Learning curve: shares of the full training with the metrics at each.
Points: TypeAlias = Sequence[tuple[float, Mapping[str, float | None]]]


@contextlib.contextmanager
def silence_loggers() -> Iterator[None]:
    """Silence warnings and logs below errors: tools comment on what is written for them on purpose."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)


class Sink:
    """Target that runs are written into; `tracking.open_sink` makes it after a check of the path.

    Args:
        path: File or folder of the target.
        flag: Flag that the user wrote, for errors.
    """

    def __init__(self, path: Path, flag: str) -> None:
        self.path = path
        self.flag = flag

    def update(self, run: Run, pending_curves: Mapping[int, Curve] | None = None) -> None:
        """Write the parts of a run that are not written yet.

        Args:
            run: The run.
            pending_curves: Learning curves of pending trials by id (see `running_curves`).

        Raises:
            UsageError: The target is of another tool, or has another run of this name.
            OSError: The target cannot be written.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Row:
    """One candidate with its result.

    Args:
        id: Id from 0.
        state: See State.
        genome: Values by gene, named as in `Rows.genes`.
        values: Values of the objectives in order; None unless all are known.
        metrics: Returned metrics, named as in `Rows.metrics`.
        curve: (step, metrics) in the order of training, with `WHOLE` steps in a full training.
        began: Start of the training, or of the proposal if unknown, in seconds since 1970.
        ended: Time of the result in seconds since 1970; None without one.
        facts: Other plain data: operator, parents, budget, seed, status, …
    """

    id: int
    state: State
    genome: dict[str, Value]
    values: tuple[float, ...] | None
    metrics: dict[str, float]
    curve: tuple[tuple[int, dict[str, float]], ...]
    began: float
    ended: float | None
    facts: dict[str, Any]

    @property
    def last_step(self) -> int:
        """Last step: that of the budget, or of the curve's last point if that is later."""
        return max([step_of(self.facts["budget"]), *(step for step, _ in self.curve)])


class Rows:
    """Rows of a run.

    Args:
        run: The run.
        pending_curves: Learning curves of pending trials by id (see `running_curves`).
    """

    def __init__(self, run: Run, pending_curves: Mapping[int, Curve] | None = None) -> None:
        self.run = run
        self.pending_curves = {id: curve for id, curve in (pending_curves or {}).items() if id not in run.outcomes}
        self.name = one_line(run.folder.resolve().name, NAME)
        # Names of the genes in the rows, by name in the run.
        self.genes = unique_names(run.genes)
        # Name of the budget beside the genes; '' if all trainings are full ones.
        self.parts = "budget" if min(run.manifest.settings.rungs) < 1 else ""
        while self.parts in self.genes.values():
            self.parts += "_"
        curves: list[Points] = [*(outcome.curve for outcome in run.outcomes.values()), *self.pending_curves.values()]
        curve_metrics = {name for curve in curves for _, point in curve for name in point} - {DECAYED}
        # Names of the metrics in the rows, by name in the run.
        self.metrics = unique_names([*run.metric_names, *sorted(curve_metrics)])
        self.objectives = [self.metrics[objective.metric] for objective in run.objectives]
        self.directions = ["MINIMIZE" if objective.sign > 0 else "MAXIMIZE" for objective in run.objectives]

    @property
    def facts(self) -> dict[str, Any]:
        """Plain data about the whole run."""
        manifest = self.run.manifest
        options = {f"option {name}": value for name, value in manifest.options.items()}
        facts = {
            "run": self.name,
            "evaluator": manifest.evaluator,
            "strategy": manifest.strategy,
            "objectives": ", ".join(manifest.objectives),
            "fidelity": ", ".join(f"{budget:g}" for budget in manifest.settings.rungs),
            "seed": manifest.settings.seed,
            "created": manifest.created,
            "identity": manifest.identity,
            "steps": f"{WHOLE} are a full training",
        }
        return {one_line(name, NAME): _plain(value) for name, value in {**facts, **options}.items()}

    def __len__(self) -> int:
        return len(self.run.candidates)

    def row(self, id: int) -> Row:
        """Return the row of a candidate."""
        run = self.run
        candidate, outcome = run.candidates[id], run.outcomes.get(id)
        proposed = _time(run.proposed_at.get(id, 0.0))
        facts: dict[str, Any] = {
            "operator": one_line(candidate.operator, NAME),
            "parents": list(candidate.parents),
            "generation": candidate.generation,
            "budget": candidate.budget,
            "seed": candidate.seed,
            "extra_seed": candidate.extra_seed,
        }
        if candidate.resumes is not None:
            facts["resumes"] = candidate.resumes
        genome = {self.genes[name]: _plain(value) for name, value in candidate.genome.items()}
        if outcome is None:
            curve = self._curve(self.pending_curves.get(id, ()))
            return Row(id, "open", genome, None, {}, curve, proposed, None, facts)
        trial = run.trial(id)
        objectives = [objective.metric for objective in run.objectives]
        ended = _time(run.recorded_at.get(id, 0.0))
        # The status comes first: some tools show the first few facts only.
        error = {"error": one_line(outcome.error)} if outcome.error else {}
        facts = {"status": outcome.status, **error, **facts}
        facts |= {"seconds": outcome.seconds, "device": one_line(outcome.device, NAME)}
        if run.constraints and trial.losses is not None:
            facts["violation"] = trial.violation
        state: State = "whole" if candidate.whole else "part"
        if not trial.ok:
            state = "pruned" if outcome.status == "pruned" else "failed"
        return Row(
            id=id,
            state=state,
            genome=genome,
            values=tuple(outcome.metrics[name] for name in objectives) if trial.ok else None,
            metrics=self._finite(outcome.metrics),
            curve=self._curve(outcome.curve),
            began=_time(ended - max(0.0, outcome.seconds)) or proposed,
            ended=ended,
            facts=facts,
        )

    def _curve(self, curve: Points) -> tuple[tuple[int, dict[str, float]], ...]:
        return tuple((step_of(share), self._finite(point)) for share, point in curve)

    def _finite(self, metrics: Mapping[str, float | None]) -> dict[str, float]:
        return {
            self.metrics[name]: float(value)
            for name, value in metrics.items()
            if name != DECAYED and value is not None and math.isfinite(value)
        }


def step_of(share: float) -> int:
    """Return the step of a share of the full training, at least 1."""
    return max(1, round(share * WHOLE))


def unique_names(names: Iterable[str]) -> dict[str, str]:
    """Return the printable form of each name of any origin, with numbers added where two are equal."""
    short_names: dict[str, str] = {}
    for name in dict.fromkeys(names):
        line = first = one_line(name, NAME) or "_"
        number = 2
        while line in short_names.values():
            line, number = f"{first} {number}", number + 1
        short_names[name] = line
    return short_names


def _plain(value: Any) -> Any:
    """Return a value as a finite number, a bool, or one printable line."""
    if isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    return one_line(str(value))


def _time(seconds: float) -> float:
    return min(max(0.0, seconds), LATEST)
