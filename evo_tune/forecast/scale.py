"""What a run's recipe becomes at another size, what the training there will take, and what it will reach.

The carrying itself is the evaluator's (`carry`); here its answer is set beside published laws, beside what the run's
trainings say of the loss at another size, and turned into hours and money. Reads runs, and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evo_tune.errors import StoreError, UsageError
from evo_tune.forecast.laws import Scale, compute_optimal_tokens, suggestions
from evo_tune.forecast.loss import Observation, missing, predict
from evo_tune.genome.trial import DECAYED, Trial
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.report.calibration import recommended
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run

__all__ = ["Wanted", "found_in", "observations", "scaled"]

ALIKE = 1.3
"""Trainings are of one kind if sizes and texts differ by less."""

KEPT = 3
"""Of one kind, so many of the best tell of the loss at their size: the others tell of bad recipes."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a recipe is carried to.

    Args:
        width: Of the model.
        depth: Blocks.
        tokens: Of text.
        batch: Tokens in a step; None: by rule.
        speed: Tokens a second of the target's training; None: at the run's own arithmetic a second.
        price: Of an hour; None: nothing is said of it.
        memory: Of a GPU, GiB; None: usual ones.
    """

    width: int
    depth: int
    tokens: int
    batch: int | None = None
    speed: float | None = None
    price: float | None = None
    memory: float | None = None

    @property
    def target(self) -> dict[str, Any]:
        """What the evaluator is told."""
        own = {"width": self.width, "depth": self.depth, "tokens": self.tokens, "batch": self.batch}
        return {**own, "memory": self.memory}


def found_in(run: Run, id: int | None = None) -> Trial:
    """Return the trial whose recipe is carried: the one that the run recommends, or another.

    Raises:
        StoreError: It has none with a value.
        UsageError: There is no such trial, or it has no value.
    """
    if id is None:
        best = recommended(run)
        if best is None:
            raise StoreError(
                f"run {run.name} has no full training with a value: `evo-tune show {as_typed(run.folder)}` tells why"
            )
        return best
    known = {trial.id: trial for trial in run.trials()}
    if id not in known or known[id].outcome.status != "ok":
        raise UsageError(
            f"--trial {id}: expected one that has a value: `evo-tune show {as_typed(run.folder)}` lists them"
        )
    return known[id]


def scaled(
    run: Run, evaluator: Evaluator, wanted: Wanted, *, trial: Trial, others: Sequence[Run] = ()
) -> dict[str, Any]:
    """Return a run's recipe at another size, as plain data.

    Args:
        run: Where it was found.
        evaluator: The run's.
        wanted: What it is carried to.
        trial: Whose recipe.
        others: Runs whose trainings tell of the loss at other sizes too: probes.

    Returns:
        What `carry` gives, and beside it laws, loss, optimal_tokens, hours, price.

    Raises:
        UsageError: The recipe cannot be carried there.
    """
    told = evaluator.carry(trial.genome, wanted.target, run.manifest.options)
    target = told["target"]
    seconds, how = _seconds(trial, target, wanted)
    hours = None if seconds is None else seconds / 3600
    return {
        "run": run.name,
        "trial": trial.id,
        **told,
        "laws": _laws(told),
        "loss": _loss(run.objectives[0].metric, observations([run, *others], run.objectives[0].metric), target),
        "optimal_tokens": compute_optimal_tokens(target["parameters"]),
        "tokens_per_parameter": target["tokens"] / target["parameters"],
        "hours": hours,
        "speed": how,
        "price": None if hours is None or wanted.price is None else hours * wanted.price,
    }


def observations(runs: Iterable[Run], metric: str) -> list[Observation]:
    """Return what runs' trainings say of a loss by size and text: of each kind the best few.

    A training counts if it was begun with weights of its own and came down to the end of its schedule; a rung does
    where it is a training in small (see `Context.report`).

    Args:
        runs: Of one task.
        metric: The loss.
    """
    kinds: dict[tuple[int, int], list[Observation]] = {}
    for run in runs:
        for trial in run.trials():
            known = trial.outcome.metrics
            if not {metric, "params", "tokens"} <= known.keys() or not _whole(trial) or known[metric] <= 0:
                continue
            one = Observation(known["params"], known["tokens"], known[metric])
            kind = tuple(round(math.log(value) / math.log(ALIKE)) for value in (one.parameters, one.tokens))
            kinds.setdefault((kind[0], kind[1]), []).append(one)
    best = [sorted(alike, key=lambda one: one.loss)[:KEPT] for alike in kinds.values()]
    return [one for alike in best for one in alike]


def _whole(trial: Trial) -> bool:
    """Whether a training is one by itself: from the beginning, to the end of a schedule."""
    if trial.outcome.status != "ok" or trial.candidate.inherits is not None:
        return False
    curve = trial.outcome.curve
    return trial.candidate.budget == 1.0 or bool(curve and curve[-1][1].get(DECAYED))


def _scale(size: Mapping[str, Any]) -> Scale:
    return Scale(
        width=size["width"],
        depth=size["depth"],
        context=size["context"],
        parameters=size["without_embeddings"],
        tokens=size["tokens"],
        flops=size["flops"],
        batch=size["batch"],
    )


def _laws(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what laws say of the learning rate there, and what each would have said of the run, side by side."""
    found, target = _scale(told["found"]), _scale(told["target"])
    rate = told["found"]["lr"]
    own = {
        "law": "this run",
        "source": "found, and carried by its parametrisation",
        "lr": told["target"]["lr"],
        "at_run": rate,
        "moved": told["target"]["lr"],
        "batch": told["target"]["batch"],
        "outside": "",
        "outside_run": "",
    }
    rows = [own]
    for here, there in zip(suggestions(found), suggestions(target, (found, rate)), strict=True):
        row = asdict(there)
        rows.append({**row, "at_run": here.lr, "outside_run": here.outside})
    return rows


def _loss(metric: str, seen: Sequence[Observation], target: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loss to expect, or why none can be told."""
    known = {"metric": metric, "trainings": len(seen), "identifiable": False, "why": missing(seen)}
    if known["why"]:
        return known
    found = predict(seen, target["parameters"], target["tokens"])
    law = found.law
    return {
        **known,
        "identifiable": True,
        "loss": found.loss,
        "low": found.low,
        "high": found.high,
        "share": found.share,
        "law": asdict(law),
        "further": max(
            target["parameters"] / max(one.parameters for one in seen),
            target["tokens"] / max(one.tokens for one in seen),
        ),
    }


def _seconds(trial: Trial, target: Mapping[str, Any], wanted: Wanted) -> tuple[float | None, str]:
    """Return how long the target's training takes, and at which speed that is."""
    if wanted.speed is not None:
        return target["tokens"] / wanted.speed, f"{wanted.speed:.6g} tokens a second, as given"
    known = trial.outcome.metrics
    if not {"tokens_per_second", "flops", "tokens"} <= known.keys():
        return None, "unknown: give --speed"
    arithmetic = known["tokens_per_second"] * known["flops"] / known["tokens"]
    return target["flops"] / arithmetic, f"{arithmetic:.3g} FLOP/s, as measured in the run on {trial.outcome.device}"
