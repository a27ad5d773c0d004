"""The pieces of transfer.py: trainings that are made once, and the best learning rate of them."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evo_tune import Context
from evo_tune.plugins.evaluator import BoundEvaluator
from evo_tune.plugins.find import find_evaluator

HEAD, BATCH, CONTEXT = 16, 512, 64

JUDGED = 16_384
"""Held-out bytes that judge each training: the same, however long it is."""

LOST = 99.0
"""Loss of a training that diverged."""


class Rows:
    """A file of results, one JSON object per line; a result in the file is not computed again.

    Args:
        file: The file, created if missing; None: results are kept in memory only.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file is not None and file.exists() else []
        self.known: dict[str, Any] = {}
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # killed in the middle of a line
                continue
            self.known[self._key(row["of"])] = row["result"]

    @staticmethod
    def _key(of: Any) -> str:
        return json.dumps(of, sort_keys=True)

    def get(self, of: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """Return the result of what `of` names, computed and kept if it is not known."""
        key = self._key(of)
        if key not in self.known:
            self.known[key] = compute()
            if self.file is not None:
                with self.file.open("a") as out:
                    out.write("\n" * self._torn() + json.dumps({"of": of, "result": self.known[key]}) + "\n")
        return self.known[key]

    def _torn(self) -> bool:
        """Whether the file ends within a line."""
        assert self.file is not None
        text = self.file.read_bytes() if self.file.exists() else b""
        return bool(text) and not text.endswith(b"\n")


# ---------------------------------------------------------------- trainings


class Trainer:
    """Trains genomes of language_model in this process, on one thread.

    Args:
        rows: Earlier results.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @cached_property
    def evaluator(self) -> Any:
        import torch

        torch.set_num_threads(1)
        return find_evaluator("language_model")

    def options(self, tokens: int, **own: Any) -> BoundEvaluator:
        given = {"size": "small", "tokens": tokens, "eval_tokens": JUDGED, **own}
        bound: BoundEvaluator = self.evaluator.bind(given).for_run(rungs=False)
        return bound

    def parameters(self, genome: dict[str, Any], **own: Any) -> float:
        """Return the number of weights of a genome's model."""
        found: float = self.options(1_000_000, **own).estimate(genome)["params"]
        return found

    def metrics(self, genome: dict[str, Any], tokens: int, seed: int, **own: Any) -> dict[str, float]:
        """Return loss, params, tokens and flops of a training; its loss is LOST where it diverged."""
        from evo_tune.training import Diverged

        def compute() -> dict[str, float]:
            options = self.options(tokens, **own)
            try:
                found = options.evaluate(genome, Context(seed=seed))
            except Diverged:
                return {"loss": LOST}
            names = {"val_loss": "loss", "params": "params", "tokens": "tokens", "flops": "flops"}
            return {short: round(found[name], 6) for name, short in names.items()}

        told: dict[str, float] = self.rows.get({"genome": genome, "tokens": tokens, "seed": seed, **own}, compute)
        print(
            f"\r{genome['depth']}x{genome['width']} lr {genome['lr']:.4g} seed {seed}: {told['loss']:.4f}".ljust(60),
            end="",
            file=sys.stderr,
            flush=True,
        )
        return told


def plain(size: tuple[int, int], lr: float) -> dict[str, Any]:
    """Return the genome of a size (depth, width) with nothing but a learning rate of its own."""
    depth, width = size
    shape = {"width": width, "depth": depth, "heads": width // HEAD, "context": CONTEXT}
    return {"lr": lr, "batch": BATCH, **shape, "dropout": 0.0, "weight_decay": 0.1, "warmup": 0.05}


def scaling(param: str, base: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """Return the options of a parametrisation; at its base each is bit-identical to standard, so there are none."""
    if param == "standard" or base == size:
        return {}
    return {"param": param, "base_depth": base[0], "base_width": base[1], "base_head": HEAD}


# ---------------------------------------------------------------- a learning rate


def rate(place: int) -> float:
    """Return a learning rate of the grid, in steps of √2."""
    return float(0.004 * 2.0 ** (place / 2))


class Valley(NamedTuple):
    """Losses around the best learning rate.

    Args:
        losses: By place on the grid: one for each seed.
    """

    losses: dict[int, list[float]]

    @property
    def best(self) -> int:
        """Where the mean is lowest."""
        return min(self.losses, key=lambda place: statistics.fmean(self.losses[place]))

    @property
    def optimum(self) -> tuple[float, float]:
        """Where it lies, log lr, by a parabola through each seed's losses: mean, and standard error of it."""
        places = sorted(self.losses)
        x = np.log([rate(place) for place in places])
        found = [lowest(x, np.array(one)) for one in zip(*(self.losses[place] for place in places), strict=True)]
        error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        return statistics.fmean(found), error


def lowest(x: np.ndarray, y: np.ndarray) -> float:
    """Return where a parabola through points is lowest; where it has no bottom among them, the lowest point."""
    middle = x.mean()  # so that the squares do not cancel
    curve, slope, _ = np.polyfit(x - middle, y, 2)
    at = middle - slope / (2 * curve) if curve > 0 else math.inf
    return float(at if x.min() <= at <= x.max() else x[np.argmin(y)])


def valley(
    loss: Callable[[float, int], float], start: float, seeds: int, *, descend: bool = True, reach: int = 1
) -> Valley:
    """Return the losses at the best learning rate, and at the rates next to it in steps of √2.

    Args:
        loss: Loss of a rate and a seed.
        start: Rate to begin at.
        seeds: Number of seeds (int ≥ 1).
        descend: Whether to move by factors of 2 with the first seed first. All seeds then move by factors of √2.
        reach: Rates on each side of the best (int ≥ 1).
    """
    at = round(2 * math.log2(start / 0.004))
    for move in (2, -2) if descend else ():
        while loss(rate(at + move), 0) < loss(rate(at), 0):
            at += move
    losses: dict[int, list[float]] = {}
    while True:
        for place in range(at - reach, at + reach + 1):
            losses[place] = [loss(rate(place), seed) for seed in range(seeds)]
        at = Valley(losses).best
        if min(losses) <= at - reach and at + reach <= max(losses):
            return Valley({place: one for place, one in losses.items() if abs(place - at) <= reach})


def mean(losses: Sequence[float]) -> str:
    """Return the mean of losses with its standard error, as text."""
    error = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan
    return f"{statistics.fmean(losses):.4f} ± {error:.4f}"


def excess(transferred: Sequence[float], best: Sequence[float]) -> tuple[float, float]:
    """Return the excess of losses at a transferred rate, as a share of the best: mean and standard error over seeds."""
    shares = [one / other - 1.0 for one, other in zip(transferred, best, strict=True)]
    return statistics.fmean(shares), statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan
