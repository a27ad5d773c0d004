"""What automatic widening of ranges gains where the optimum is outside the ranges, and costs where it is inside.

A made-up loss over eight genes stands for a training: the squared distances of the genes from an optimum on their
scales, two interactions, two genes that do not matter, and noise that differs by genome. For each seed the optimum is
drawn anew, all inside the ranges, or with three genes beyond an end: the learning rate by a factor of 4, the width by
half of its range, the batch by a factor of 4. Losses are told after so many trainings, without their noise.

    python benchmarks/widening.py --seeds 20
    python benchmarks/widening.py --seeds 5 --strategies ga    in a minute
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from problems import Instance, Result
from search import Ours

from evo_tune import Choice, Float, Int, SearchSpace
from evo_tune.genome.values import genome_key
from evo_tune.genome.widening import widening_limits

SPACE = SearchSpace(
    lr=Float(1e-3, 6e-2, log=True, default=1e-2),
    batch=Choice((64, 128, 256, 512, 1024), ordered=True),
    width=Int(16, 96, step=8, default=48),
    depth=Int(1, 4, default=2),
    weight_decay=Float(0.01, 0.3, log=True, default=0.1),
    warmup=Float(0.0, 0.1, default=0.05),
    beta2=Choice((0.9, 0.95, 0.98, 0.99), ordered=True, default=0.95),
    kind=Choice(("a", "b", "c")),
)

TOLD = (30, 60, 100)
"""Numbers of trainings after which losses are told."""

NOISE = 0.02


@dataclass(frozen=True)
class Task:
    """A loss with an optimum of its own.

    Args:
        optimum: Place of the optimum on each gene's scale, shape (6,); 0 and 1 are the ends of the range at first.
        kind: The category that is best.
    """

    optimum: np.ndarray
    kind: str

    @classmethod
    def of(cls, seed: int, outside: bool) -> Task:
        """Return the task of a seed."""
        rng = np.random.default_rng([seed, 17])
        optimum, kind = rng.uniform(0.15, 0.85, size=5), "abc"[rng.integers(3)]
        if outside:
            high = rng.random(3) < 0.5
            beyond = np.array([np.log(4) / np.log(60), 0.4, 0.5])
            optimum[:3] = np.where(high, 1.0 + beyond, -beyond)
            optimum[2] = 1.5  # no width is negative
        return cls(optimum, kind)

    def loss(self, genome: dict[str, Any]) -> float:
        """Return the loss without noise."""
        lr, decay = np.log(genome["lr"] / 1e-3) / np.log(60), np.log(genome["weight_decay"] / 0.01) / np.log(30)
        batch, width = np.log2(genome["batch"] / 64) / 4, (genome["width"] - 16) / 80
        gaps = np.array([lr, batch, width, (genome["depth"] - 1) / 3, decay]) - self.optimum
        mixed = 0.5 * gaps[0] * gaps[1] + 0.3 * gaps[2] * gaps[3]
        return float(gaps**2 @ (2.0, 1.0, 1.0, 0.5, 0.3) + mixed + 0.2 * (genome["kind"] != self.kind))

    def instance(self) -> Instance:
        """Return the task as a search plays it."""

        def evaluate(genome: dict[str, Any]) -> Result:
            luck = int.from_bytes(hashlib.sha256(genome_key(genome).encode()).digest()[:8], "big")
            true = self.loss(genome)
            return (true + NOISE * float(np.random.default_rng(luck).normal()),), (true,)

        return Instance(SPACE, evaluate, lambda results: np.zeros(len(results)))


class Widening(Ours):
    """A strategy that is driven with automatic widening.

    Args:
        instance: What to play on.
        seed: Of the run.
        name: The strategy's.
    """

    def __init__(self, instance: Instance, seed: int, name: str) -> None:
        super().__init__(instance, seed, name)
        limits = {name: found for name, gene in SPACE.genes.items() if (found := widening_limits(gene)) is not None}
        self.strategy = replace(self.strategy, limits=limits)
        self.widened = 0

    def ask(self) -> tuple[Any, dict[str, Any]]:
        while (found := self.strategy.next_widening(self.history)) is not None:
            genes = {**self.history.space.genes, found.name: found.gene}
            self.history.widen(SearchSpace(self.history.space.repair, None, **genes))
            self.widened += 1
        return super().ask()


def play(player: Ours, instance: Instance) -> list[float]:
    """Return the loss, without noise, of the genome that looks best after each of TOLD."""
    seen, found, losses = np.inf, np.inf, []
    for count in range(1, TOLD[-1] + 1):
        handle, genome = player.ask()
        told, true = instance.evaluate(genome)
        player.tell(handle, told)
        assert told is not None
        assert true is not None
        if told[0] < seen:
            seen, found = told[0], true[0]
        if count in TOLD:
            losses.append(found)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategies", default="saea,ga,tpe")
    given = parser.parse_args()
    print(f"| optimum | strategy | widening | {' | '.join(f'loss at {count}' for count in TOLD)} | times widened |")
    print("|---|---|---|" + "---|" * (len(TOLD) + 1))
    for outside in (False, True):
        for name in given.strategies.split(","):
            rows: dict[str, list[list[float]]] = {"off": [], "on": []}
            times = []
            for seed in range(given.seeds):
                instance = Task.of(seed, outside).instance()
                rows["off"].append(play(Ours(instance, seed, name), instance))
                player = Widening(instance, seed, name)
                rows["on"].append(play(player, instance))
                times.append(player.widened)
            for word, found in rows.items():
                told = _told(np.array(found))
                count = "" if word == "off" else f"{np.mean(times):.1f}"
                print(f"| {'outside' if outside else 'inside'} | {name} | {word} | {told} | {count} |")
            told = _told(np.array(rows["on"]) - np.array(rows["off"]))
            print(f"| {'outside' if outside else 'inside'} | {name} | on - off | {told} | |", flush=True)


def _told(values: np.ndarray) -> str:
    """Return means over seeds with standard errors, shape (seeds, told)."""
    errors = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return " | ".join(f"{mean:.3f} ± {error:.3f}" for mean, error in zip(values.mean(axis=0), errors, strict=True))


if __name__ == "__main__":
    main()
