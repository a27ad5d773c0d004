"""The size for which a search is made, and what its recipe is there, beside what the search has cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evo_tune.errors import OptionError
from evo_tune.forecast.scale import Wanted, scaled
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.report.calibration import recommended
from evo_tune.report.carried import Carried
from evo_tune.report.summary import costs
from evo_tune.store.calibration import read_calibration
from evo_tune.store.run import Run

__all__ = ["Aim", "carried", "parse_aim"]

EACH = 20
"""Tokens a weight where none are given: about compute-optimal (Hoffmann et al., arXiv:2203.15556)."""

LARGEST = 10**6
"""Width and depth at most."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a search is for.

    Args:
        width: Of the target.
        depth: Of the target.
        tokens: Of its training; None: 20 a weight.
    """

    width: int
    depth: int
    tokens: int | None = None


def parse_aim(text: str) -> Aim:
    """Return what stands behind `--for-scale`.

    Args:
        text: 1024x24: width and depth; or 1024x24x1e9, with the tokens of the training.

    Raises:
        OptionError: It is something else.
    """
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})(?:x(\d+(?:\.\d*)?(?:e\d{1,2})?))?", text, re.ASCII)
    width, depth = (int(match[1]), int(match[2])) if match else (0, 0)
    tokens = float(match[3]) if match and match[3] else None
    if not (0 < width <= LARGEST and 0 < depth <= LARGEST) or not (tokens is None or 1 <= tokens < 2**63):
        raise OptionError(f"--for-scale {text}: expected WIDTHxDEPTH or WIDTHxDEPTHxTOKENS, such as 1024x24x1e9")
    return Aim(width=width, depth=depth, tokens=None if tokens is None else int(tokens))


def carried(run: Run, evaluator: Evaluator) -> Carried | None:
    """Return a run's recipe at the size that it is for; None where it is for none, or has no recipe yet.

    Args:
        run: It.
        evaluator: Its evaluator.

    Raises:
        UsageError: The recipe cannot be carried there.
    """
    best = recommended(run)
    if not run.manifest.for_scale or best is None:
        return None
    aim = parse_aim(run.manifest.for_scale)
    tokens = aim.tokens
    if tokens is None:
        there = Wanted(width=aim.width, depth=aim.depth, tokens=1)
        tokens = EACH * int(evaluator.carry(best.genome, there.target, run.manifest.options)["target"]["parameters"])
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
    """Return the FLOPs of all trainings of a run; what goes on from a rung counts from there."""
    share = costs(run)
    search = sum(
        trial.outcome.metrics.get("flops", 0.0) * share[trial.id] / trial.candidate.budget for trial in run.trials()
    )
    return search + sum(trial.outcome.metrics.get("flops", 0.0) for trial in read_calibration(run))
