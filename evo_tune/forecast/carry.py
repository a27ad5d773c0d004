"""What is made of a carried recipe: a file of flags that trains it, and short trainings that check it on the way.

Plain data in, plain data out; nothing is trained or written here.
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
from evo_tune.forecast.scale import Wanted
from evo_tune.genome.trial import Trial
from evo_tune.options.declare import Option
from evo_tune.text import one_line

__all__ = ["as_flags", "basin", "between", "probe_rates"]

NEAR = 1.02
"""A carried rate is in the basin where its loss is no more than so many times the best of its neighbours'."""


def as_flags(
    evaluator: str, name: str, told: Mapping[str, Any], options: Mapping[str, Any], declared: Mapping[str, Option]
) -> str:
    """Return a TOML file for `evo-tune run --config`, which trains the carried recipe once.

    Names may be a stranger's, and what is written is executed: no line of it can be theirs.

    Args:
        evaluator: As `run` takes it.
        name: Of the run that it makes.
        told: What `carry` gave.
        options: The run's.
        declared: The evaluator's: what stands at its default is left out.
    """
    settled = {key: value for key, value in {**options, **told["options"]}.items() if key in declared}
    usual = {key: one.default for key, one in declared.items() if one.default is not MISSING}
    kept = {
        key: value
        for key, value in settled.items()
        if key not in told["genome"] and (key not in usual or usual[key] != value)
    }
    size = f"depth {told['target']['depth']}, width {told['target']['width']}"
    lines = [
        f"# A recipe of run {one_line(str(told['run']))}, carried to {size}:",
        "# evo-tune run --config FILE",
        f"evaluator = {_toml(evaluator)}",
        f"name = {_toml(name)}",
        "trials = 1",
        "calibrate = 0",
        "",
        "[option]",
        *(f"{_key(key)} = {_toml(value)}" for key, value in kept.items()),
        "",
        "[gene]",
        *(f"{_key(key)} = {_toml(_plain(value))}" for key, value in told["genome"].items()),
    ]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    """Return a gene's value as `--gene` takes it: fixed."""
    return repr(value) if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _key(name: str) -> str:
    """Return a key, in quotes where it could be read as more than a name."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else _toml(name)


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)


def between(found: Mapping[str, Any], target: Mapping[str, Any], wanted: Wanted, count: int) -> list[Wanted]:
    """Return sizes on the way from a run to a target, with as much text as the run's training had.

    One where up to five probes are asked, halfway in log width and log depth; else two, at a third and two thirds.
    Widths are whole heads.

    Args:
        found: Where the recipe was found.
        target: Where it is carried.
        wanted: The target as it was asked.
        count: Of probes.

    Raises:
        UsageError: Nothing lies between.
    """
    head = found["width"] // found["heads"]
    shares = (0.5,) if count < 6 else (1 / 3, 2 / 3)
    sizes = []
    for share in shares:
        width, depth = (
            math.exp((1 - share) * math.log(found[name]) + share * math.log(target[name]))
            for name in ("width", "depth")
        )
        sizes.append((max(head, round(width / head) * head), max(1, round(depth))))
    ends = {(one["width"], one["depth"]) for one in (found, target)}
    sizes = [size for size in dict.fromkeys(sizes) if size not in ends]
    if not sizes:
        raise UsageError(
            f"--probe: no size lies between {found['depth']}x{found['width']} and {target['depth']}x{target['width']}; "
            "leave it out, and train the target"
        )
    return [Wanted(width=width, depth=depth, tokens=round(found["tokens"])) for width, depth in sizes]


def probe_rates(lr: float, count: int) -> list[float]:
    """Return so many learning rates around one: itself, half and twice, then further out.

    Args:
        lr: The one that is carried.
        count: 1 or more.
    """
    steps = sorted(range(-count, count + 1), key=lambda step: (abs(step), step))[:count]
    return [lr * 2.0**step for step in steps]


def basin(trials: Sequence[Trial], metric: str, rates: Mapping[int, float]) -> list[dict[str, Any]]:
    """Return whether the carried learning rate lies in the basin, at each size that was probed.

    Args:
        trials: Of a probe.
        metric: Its loss.
        rates: The carried rate at each width.

    Returns:
        For each size: width, depth, carried, loss, best (rate), best_loss, optimum (by a parabola in log lr; None where
        there is none), holds (None: it is not known).
    """
    sizes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for trial in trials:
        if metric in trial.outcome.metrics and trial.genome["width"] in rates:
            key = (int(trial.genome["width"]), int(trial.genome["depth"]))
            sizes.setdefault(key, []).append((float(trial.genome["lr"]), trial.outcome.metrics[metric]))
    rows = []
    for (width, depth), points in sorted(sizes.items()):
        carried = rates[width]
        best, best_loss = min(points, key=lambda point: point[1])
        own = next((loss for lr, loss in points if math.isclose(lr, carried, rel_tol=1e-6)), None)
        known = own is not None and len(points) > 1
        rows.append(
            {
                "width": width,
                "depth": depth,
                "trainings": len(points),
                "carried": carried,
                "loss": own,
                "best": best,
                "best_loss": best_loss,
                "optimum": _optimum(points),
                "holds": bool(own is not None and own <= NEAR * best_loss) if known else None,
            }
        )
    return rows


def _optimum(points: Sequence[tuple[float, float]]) -> float | None:
    """Return where a parabola through losses in log lr is lowest; None: there is none, or far outside."""
    if len(points) < 3:
        return None
    x, y = np.log([lr for lr, _ in points]), np.array([loss for _, loss in points])
    curve, slope, _ = np.polyfit(x, y, 2)
    at = -slope / (2 * curve) if curve > 0 else math.inf
    return float(np.exp(at)) if x.min() - math.log(4) <= at <= x.max() + math.log(4) else None
