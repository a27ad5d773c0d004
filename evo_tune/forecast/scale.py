"""Transfer a run's recipe to another size, and forecast the training there.

The transfer itself is the evaluator's `carry`. This module adds the published laws, the loss that the run's trainings
predict at the target, the hours and the price. It reads runs and writes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evo_tune.errors import OptionError, StoreError, UsageError
from evo_tune.forecast.laws import LAWS, Scale, compute_optimal_tokens
from evo_tune.forecast.loss import Observation, missing, predict
from evo_tune.genome.trial import DECAYED, Trial
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.report.calibration import recommended
from evo_tune.report.carried import Carried
from evo_tune.report.summary import costs
from evo_tune.store.calibration import read_calibration
from evo_tune.store.places import as_typed
from evo_tune.store.run import Run

__all__ = ["Aim", "Wanted", "carried", "found_in", "observations", "parse_aim", "scaled"]

ALIKE = 1.3
"""Trainings whose sizes and texts differ by less than this factor are of one kind."""

KEPT = 3
"""Number of best trainings of a kind that count for the loss at its size. The others show bad recipes."""

LARGEST = 10**6
"""Largest width and depth of a target."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Target of a transfer.

    Args:
        width: Width of the model.
        depth: Number of blocks.
        tokens: Training text in tokens.
        batch: Tokens per step; None: by rule.
        speed: Tokens per second of the target's training; None: at the run's own FLOP/s.
        price: Price of an hour; None for no price.
        memory: GiB of a GPU; None for the usual sizes.
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
        """The `target` argument of the evaluator's `carry`."""
        return {name: getattr(self, name) for name in ("width", "depth", "tokens", "batch", "memory")}


def found_in(run: Run, id: int | None = None) -> Trial:
    """Return the trial whose recipe is transferred: that with an id, or the one that the run recommends.

    Raises:
        StoreError: The run has no full training with a value.
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
        run: The run that found the recipe.
        evaluator: Evaluator of the run.
        wanted: Target of the transfer.
        trial: Trial whose recipe is transferred.
        others: Further runs, such as probes, whose trainings count for the predicted loss.

    Returns:
        The result of `carry`, with laws, loss, optimal_tokens, tokens_per_parameter, hours, speed and price.

    Raises:
        UsageError: The recipe cannot be transferred to this target.
    """
    told = evaluator.carry(trial.genome, wanted.target, run.manifest.options)
    target = told["target"]
    seconds, how = _seconds(trial, target, wanted)
    hours = None if seconds is None else seconds / 3600
    return {
        "run": run.name,
        "trial": trial.id,
        **told,
        "laws": _rates(told["found"], target),
        "loss": _loss(run.objectives[0].metric, observations([run, *others], run.objectives[0].metric), target),
        "optimal_tokens": compute_optimal_tokens(target["parameters"]),
        "tokens_per_parameter": target["tokens"] / target["parameters"],
        "hours": hours,
        "speed": how,
        "price": None if hours is None or wanted.price is None else hours * wanted.price,
    }


def observations(runs: Iterable[Run], metric: str) -> list[Observation]:
    """Return the loss by size and text of the best few trainings of each kind.

    A training counts if it reached the end of its schedule, so a rung counts if it has a decay of its own (see
    `Context.report`).

    Args:
        runs: Runs on the same data.
        metric: Name of the loss.
    """
    kinds: dict[tuple[int, int], list[Observation]] = {}
    for run in runs:
        for trial in run.trials():
            known = trial.outcome.metrics
            if not {metric, "params", "tokens"} <= known.keys() or not _whole(trial) or known[metric] <= 0:
                continue
            one = Observation(known["params"], known["tokens"], known[metric])
            size, text = (round(math.log(value) / math.log(ALIKE)) for value in (one.parameters, one.tokens))
            kinds.setdefault((size, text), []).append(one)
    best = [sorted(alike, key=lambda one: one.loss)[:KEPT] for alike in kinds.values()]
    return [one for alike in best for one in alike]


def _whole(trial: Trial) -> bool:
    """Return whether a training reached the end of a schedule."""
    if trial.outcome.status != "ok":
        return False
    curve = trial.outcome.curve
    return trial.candidate.budget == 1.0 or bool(curve and curve[-1][1].get(DECAYED))


def _scale(size: Mapping[str, Any]) -> Scale:
    names = ("width", "depth", "context", "tokens", "flops", "batch")
    return Scale(parameters=size["without_embeddings"], **{name: size[name] for name in names})


def _rates(found: Mapping[str, Any], target: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the learning rate and batch of the recipe and of each law, at the run's size and at the target."""
    here, there, rate = _scale(found), _scale(target), found["lr"]
    rows = [
        {
            "law": "this run",
            "source": "found, and carried by its parametrisation",
            "lr": target["lr"],
            "at_run": rate,
            "moved": target["lr"],
            "batch": target["batch"],
            "outside": "",
            "outside_run": "",
        }
    ]
    for law in LAWS:
        lr, at_run = law.lr(there), law.lr(here)
        rows.append(
            {
                "law": law.name,
                "source": law.source,
                "lr": None if law.relative else lr,
                "at_run": None if law.relative else at_run,
                "moved": rate * lr / at_run,
                "batch": None if law.batch is None else law.batch(there),
                "outside": law.outside(there),
                "outside_run": law.outside(here),
            }
        )
    return rows


def _loss(metric: str, seen: Sequence[Observation], target: Mapping[str, Any]) -> dict[str, Any]:
    """Return the predicted loss at the target, or the reason why it cannot be predicted."""
    why = missing(seen)
    known = {"metric": metric, "trainings": len(seen), "identifiable": not why, "why": why}
    if why:
        return known
    found = predict(seen, target["parameters"], target["tokens"])
    further = max(
        target["parameters"] / max(one.parameters for one in seen),
        target["tokens"] / max(one.tokens for one in seen),
    )
    return {**known, **asdict(found), "further": further}


def _seconds(trial: Trial, target: Mapping[str, Any], wanted: Wanted) -> tuple[float | None, str]:
    """Return the seconds of the target's training, and the speed that they assume, in words."""
    if wanted.speed is not None:
        return target["tokens"] / wanted.speed, f"{wanted.speed:.6g} tokens a second, as given"
    known = trial.outcome.metrics
    if not {"tokens_per_second", "flops", "tokens"} <= known.keys():
        return None, "unknown: give --speed"
    rate = known["tokens_per_second"] * known["flops"] / known["tokens"]
    return target["flops"] / rate, f"{rate:.3g} FLOP/s, as measured in the run on {trial.outcome.device}"


# ---------------------------------------------------------------------------------------------------------
# A search for a larger model: --for-scale


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Target of a search for a larger model.

    Args:
        width: Width of the model.
        depth: Number of blocks.
        tokens: Training text in tokens; None: compute-optimal.
    """

    width: int
    depth: int
    tokens: int | None = None


def parse_aim(text: str) -> Aim:
    """Parse the value of `--for-scale`.

    Args:
        text: WIDTHxDEPTH or WIDTHxDEPTHxTOKENS, such as 1024x24x1e9.

    Raises:
        OptionError: The text is something else.
    """
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})(?:x(\d+(?:\.\d*)?(?:e\d{1,2})?))?", text, re.ASCII)
    width, depth = (int(match[1]), int(match[2])) if match else (0, 0)
    tokens = float(match[3]) if match and match[3] else None
    if not (0 < width <= LARGEST and 0 < depth <= LARGEST) or not (tokens is None or 1 <= tokens < 2**63):
        raise OptionError(f"--for-scale {text}: expected WIDTHxDEPTH or WIDTHxDEPTHxTOKENS, such as 1024x24x1e9")
    return Aim(width=width, depth=depth, tokens=None if tokens is None else int(tokens))


def carried(run: Run, evaluator: Evaluator) -> Carried | None:
    """Return a run's recipe at the target of its `--for-scale`; None without a target or a recipe.

    Raises:
        UsageError: The recipe cannot be transferred to the target.
    """
    best = recommended(run)
    if not run.manifest.for_scale or best is None:
        return None
    aim = parse_aim(run.manifest.for_scale)
    tokens = aim.tokens
    if tokens is None:
        there = Wanted(width=aim.width, depth=aim.depth, tokens=1)
        size = evaluator.carry(best.genome, there.target, run.manifest.options)["target"]
        tokens = int(compute_optimal_tokens(int(size["parameters"])))
    told = scaled(run, evaluator, Wanted(width=aim.width, depth=aim.depth, tokens=tokens), trial=best)
    loss, target = told["loss"], told["target"]
    return Carried(
        trial=best.id,
        width=aim.width,
        depth=aim.depth,
        tokens=tokens,
        given_tokens=aim.tokens is not None,
        lr=target["lr"],
        spent=_spent(run),
        takes=target["flops"],
        loss=loss.get("loss"),
        low=loss.get("low"),
        high=loss.get("high"),
        why=loss["why"],
    )


def _spent(run: Run) -> float:
    """Return the FLOPs of all trainings of a run; a promotion counts from the rung that it continues."""
    share = costs(run)
    search = sum(
        trial.outcome.metrics.get("flops", 0.0) * share[trial.id] / trial.candidate.budget for trial in run.trials()
    )
    return search + sum(trial.outcome.metrics.get("flops", 0.0) for trial in read_calibration(run))
