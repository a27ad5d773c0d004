"""Prepare the training of a transferred recipe: a file of flags, and probes of its learning rate at smaller sizes.

Everything is plain data; this module trains and writes nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from typing import Any

import numpy as np

from evo_tune.errors import UsageError
from evo_tune.genome.trial import Trial
from evo_tune.options.declare import Option
from evo_tune.text import one_line
from evo_tune.training.scale.recipe import ProbeResult, ScaledRecipe, TrainingSize, TransferRequest

NEAR = 1.02
"""Maximum loss of a confirmed transferred rate, as a multiple of the best loss of its neighbours."""


def recipe_flags(
    evaluator: str, name: str, told: ScaledRecipe, options: Mapping[str, Any], declared: Mapping[str, Option]
) -> str:
    """Return a TOML file for `evo-tune run --config` that trains the transferred recipe once.

    The file is executed and may contain a stranger's names, so every name and value is quoted.

    Args:
        evaluator: Evaluator, as `run` takes it.
        name: Name of the run to make.
        told: Result of `scale.scaled`.
        options: Options of the original run.
        declared: Declared options of the evaluator; options at their default are left out.
    """
    settled = {key: value for key, value in {**options, **told.options}.items() if key in declared}
    usual = {key: one.default for key, one in declared.items() if one.default is not MISSING}
    kept = {
        key: value
        for key, value in settled.items()
        if key not in told.genome and (key not in usual or usual[key] != value)
    }
    size = f"depth {told.target.depth}, width {told.target.width}"
    lines = [
        f"# A recipe of run {one_line(str(told.run))}, transferred to {size}:",
        "# evo-tune run --config FILE",
        f"evaluator = {_toml(evaluator)}",
        f"name = {_toml(name)}",
        "trials = 1",
        "final_seeds = 0",
        "",
        "[option]",
        *(f"{_key(key)} = {_toml(value)}" for key, value in kept.items()),
        "",
        "[gene]",
        *(f"{_key(key)} = {_toml(_fixed(value))}" for key, value in told.genome.items()),
    ]
    return "\n".join(lines) + "\n"


def _fixed(value: Any) -> str:
    """Return the text that fixes a value in `--gene`."""
    return repr(value) if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else _toml(name)


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)


def probe_sizes(
    found: TrainingSize, target: TrainingSize, wanted: TransferRequest, count: int
) -> list[TransferRequest]:
    """Return sizes between a run and a target, each with as much text as the run's training.

    Up to five probes use one size, halfway in log width and log depth. More probes use two sizes, at one third and two
    thirds. Widths are multiples of the head width. Where no size is in between, the target's own is used.

    Args:
        found: Size of the original run.
        target: Size to which it is transferred.
        wanted: The requested target.
        count: Number of probes.

    Raises:
        UsageError: The run is of the target's size.
    """
    head = found.width // found.heads
    shares = (0.5,) if count < 6 else (1 / 3, 2 / 3)
    sizes = []
    for share in shares:
        width = math.exp((1 - share) * math.log(found.width) + share * math.log(target.width))
        depth = math.exp((1 - share) * math.log(found.depth) + share * math.log(target.depth))
        sizes.append((max(head, round(width / head) * head), max(1, round(depth))))
    here, there = ((one.width, one.depth) for one in (found, target))
    if here == there:
        raise UsageError(f"--probe: the run is of the target's size, {target.depth}x{target.width}; leave it out")
    sizes = [size for size in dict.fromkeys(sizes) if size not in (here, there)] or [there]
    return [TransferRequest(width=width, depth=depth, tokens=round(found.tokens)) for width, depth in sizes]


def probe_rates(lr: float, count: int) -> list[float]:
    """Return learning rates around a transferred one: itself, half of it, twice it, then further out.

    Args:
        lr: The transferred rate.
        count: Number of rates (int ≥ 1).
    """
    steps = sorted(range(-count, count + 1), key=lambda step: (abs(step), step))[:count]
    return [lr * 2.0**step for step in steps]


def probe_results(trials: Sequence[Trial], metric: str, rates: Mapping[int, float]) -> list[ProbeResult]:
    """Return for each probed size whether the transferred learning rate is about the best of its neighbours.

    Args:
        trials: Trials of the probes.
        metric: Name of the loss.
        rates: Transferred rate, by width.
    """
    sizes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for trial in trials:
        if metric in trial.outcome.metrics and trial.genome["width"] in rates:
            key = (int(trial.genome["width"]), int(trial.genome["depth"]))
            sizes.setdefault(key, []).append((float(trial.genome["lr"]), trial.outcome.metrics[metric]))
    rows = []
    for (width, depth), points in sorted(sizes.items()):
        transferred = rates[width]
        best, best_loss = min(points, key=lambda point: point[1])
        own = next((loss for lr, loss in points if math.isclose(lr, transferred, rel_tol=1e-6)), None)
        known = own is not None and len(points) > 1
        rows.append(
            ProbeResult(
                width=width,
                depth=depth,
                trainings=len(points),
                transferred=transferred,
                loss=own,
                best=best,
                best_loss=best_loss,
                optimum=_optimum(points),
                confirmed=bool(own is not None and own <= NEAR * best_loss) if known else None,
            )
        )
    return rows


def _optimum(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the minimum of a parabola through losses in log lr; None if there is none, or it is far outside."""
    if len(points) < 3:
        return None
    x, y = np.log([lr for lr, _ in points]), np.array([loss for _, loss in points])
    curve, slope, _ = np.polyfit(x, y, 2)
    at = -slope / (2 * curve) if curve > 0 else math.inf
    return float(np.exp(at)) if x.min() - math.log(4) <= at <= x.max() + math.log(4) else None
