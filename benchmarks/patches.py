"""Which patches of a training are kept: a search with and without its rule for patches, hill climbing, random subsets.

A simulated training has 14 patches that can be on or off: 8 useful ones (.01 to .10), some of which help or hurt each
other, 4 without effect and 2 harmful ones. Each moves the best learning rate. A training's loss has normal noise. All
methods have the same number of trainings. Hill climbing, as agents do it, adds one patch (or changes the learning rate)
and keeps it if one training is better. The search chooses the trial that its final comparison would train.

`--problem example` is the training of docs/patches.md instead: a linear model of 381 of its real trainings.

    python benchmarks/patches.py
    python benchmarks/patches.py --repetitions 40 --seed 1000 --noise .04
    python benchmarks/patches.py --problem example --trainings 40
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from evo_tune import Float, Minimize, SearchSpace
from evo_tune.genome.history import RunHistory
from evo_tune.genome.switches import SWITCH, fit_switches
from evo_tune.genome.trial import DEFAULT, Candidate, Outcome, Proposal
from evo_tune.plugins.find import make_strategy
from evo_tune.report.recommendation import simplest_of
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings

USEFUL = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10)
"""By how much each useful patch lowers the loss."""

HARM = (0.02, 0.05)

IDLE = 4

COUNT = len(USEFUL) + len(HARM) + IDLE

Genome = dict[str, Any]


class Training(Protocol):
    """A simulated training.

    Args:
        patches: Names of its patches.
        space: The patches and the learning rate.
    """

    patches: Sequence[str]
    space: SearchSpace

    def true_loss(self, genome: Genome) -> float:
        """Return the mean loss of a genome over seeds."""
        ...

    def train(self, genome: Genome, rng: np.random.Generator) -> float | None:
        """Return the loss of one training; None if it fails."""
        ...

    def is_useful(self, patch: str, genome: Genome) -> bool:
        """Return whether a patch lowers the loss, in a genome."""
        ...


@dataclass(frozen=True)
class RandomTraining:
    """A training with random effects.

    Args:
        gains: By how much each patch lowers the loss, shape (patches,).
        interactions: By how much each pair lowers it beyond that, shape (patches, patches), above the diagonal.
        shifts: By how much each patch moves the logarithm (base 10) of the best learning rate, shape (patches,).
        noise: Standard deviation of the loss over seeds.
    """

    gains: np.ndarray
    interactions: np.ndarray
    shifts: np.ndarray
    noise: float

    @property
    def patches(self) -> list[str]:
        return [f"p{number}" for number in range(COUNT)]

    @property
    def space(self) -> SearchSpace:
        genes = dict.fromkeys(self.patches, SWITCH)
        return SearchSpace(None, None, lr=Float(1e-4, 1e-2, log=True, default=1e-3), **genes)

    def true_loss(self, genome: Genome) -> float:
        on = np.array([bool(genome[name]) for name in self.patches], dtype=float)
        distance = np.log10(genome["lr"]) + 3.0 - self.shifts @ on
        return float(1.5 - self.gains @ on - on @ self.interactions @ on + 0.3 * distance**2)

    def train(self, genome: Genome, rng: np.random.Generator) -> float:
        return self.true_loss(genome) + rng.normal(0.0, self.noise)

    def is_useful(self, patch: str, genome: Genome) -> bool:
        return bool(self.gains[self.patches.index(patch)] > 0.0)


def make_training(seed: int, noise: float) -> RandomTraining:
    """Return a training whose patches are in an order of their own."""
    rng = np.random.default_rng([seed, 1])
    gains = np.array([*USEFUL, *(-harm for harm in HARM), *[0.0] * IDLE])
    pairs = np.zeros((COUNT, COUNT))
    for _ in range(5):  # two useful patches that share a part of their effect, or help each other
        first, second = sorted(rng.choice(len(USEFUL), 2, replace=False))
        pairs[first, second] = rng.choice([-0.5, -0.5, 0.5]) * USEFUL[first]
    order, shifts = rng.permutation(COUNT), rng.normal(0.0, 0.1, COUNT)
    pairs = pairs + pairs.T
    return RandomTraining(gains[order], np.triu(pairs[np.ix_(order, order)]), shifts, noise)


@dataclass(frozen=True)
class Effect:
    """What a patch of the example adds to the loss.

    Args:
        loss: At the middle of the learning rate's range.
        slope: For each unit of the learning rate, whose range has the width 1 on a logarithmic scale.
        curvature: For each square of a unit.
    """

    loss: float
    slope: float
    curvature: float


EFFECTS = {
    "adam_eps": Effect(-0.03, 0.01, -0.25),
    "batch_first": Effect(0.01, -0.26, 0.29),
    "bigram": Effect(-0.44, -0.26, 0.54),
    "clip": Effect(-0.04, 0.04, -0.15),
    "decay": Effect(0.02, -0.39, 0.57),
    "muon": Effect(-0.09, -0.10, -0.73),
    "qk_norm": Effect(-0.06, 0.09, -0.32),
    "relu2": Effect(-0.03, -0.05, -0.33),
    "rms_norm": Effect(-0.01, -0.13, 0.46),
    "rotary": Effect(-0.20, -0.24, -0.22),
    "set_to_none": Effect(0.00, -0.14, 0.48),
    "smoothing": Effect(0.17, 0.14, -0.09),
    "swish": Effect(0.02, 0.04, 0.13),
    "value_embeddings": Effect(0.02, 0.05, 0.13),
    "wide_init": Effect(0.04, -0.37, -0.59),
}

PAIRS = {
    ("adam_eps", "qk_norm"): 0.03,
    ("adam_eps", "smoothing"): 0.03,
    ("adam_eps", "value_embeddings"): -0.03,
    ("adam_eps", "wide_init"): 0.03,
    ("batch_first", "decay"): 0.03,
    ("batch_first", "qk_norm"): 0.03,
    ("batch_first", "rotary"): 0.03,
    ("batch_first", "wide_init"): 0.03,
    ("bigram", "muon"): 0.06,
    ("bigram", "rotary"): 0.10,
    ("bigram", "wide_init"): 0.05,
    ("decay", "wide_init"): 0.03,
    ("muon", "qk_norm"): -0.07,
    ("muon", "relu2"): 0.04,
    ("muon", "rotary"): 0.03,
    ("muon", "swish"): -0.03,
    ("muon", "wide_init"): 0.04,
    ("qk_norm", "wide_init"): 0.04,
    ("relu2", "value_embeddings"): -0.04,
    ("relu2", "wide_init"): 0.06,
    ("rotary", "wide_init"): 0.03,
    ("swish", "wide_init"): -0.04,
}
"""What pairs of patches add to the loss beyond that."""

FAILING = "fused_loss"

LEAST_EFFECT = 0.002
"""A patch of the example is useful in a genome if the loss without it is higher by this."""


def exclude(genome: Genome) -> Genome:
    """Switch one of two patches off that do not apply together."""
    return {**genome, "swish": False} if genome["relu2"] and genome["swish"] else genome


@dataclass(frozen=True)
class Example:
    """The training of docs/patches.md, without the genes inside of its patches.

    Args:
        noise: Standard deviation of the loss over seeds.
    """

    noise: float

    @property
    def patches(self) -> list[str]:
        return sorted([*EFFECTS, FAILING])

    @property
    def space(self) -> SearchSpace:
        genes = dict.fromkeys(self.patches, SWITCH)
        return SearchSpace(exclude, None, lr=Float(3e-4, 3e-2, log=True, default=3e-3), **genes)

    def true_loss(self, genome: Genome) -> float:
        rate = math.log(genome["lr"] / 3e-3) / math.log(100.0)
        loss = 2.25 + 0.29 * rate + 2.11 * rate**2 - 1.13 * rate**3
        on = [effect for name, effect in EFFECTS.items() if genome[name]]
        loss += sum(effect.loss + effect.slope * rate + effect.curvature * rate**2 for effect in on)
        return loss + sum(value for (first, second), value in PAIRS.items() if genome[first] and genome[second])

    def train(self, genome: Genome, rng: np.random.Generator) -> float | None:
        return None if genome[FAILING] else self.true_loss(genome) + rng.normal(0.0, self.noise)

    def is_useful(self, patch: str, genome: Genome) -> bool:
        if patch == FAILING:
            return False
        off, on = (self.true_loss(exclude({**genome, patch: value})) for value in (False, True))
        return off > on + LEAST_EFFECT


@dataclass(frozen=True)
class Figures:
    """What a method chose.

    Args:
        loss: True loss of the choice.
        useless: Number of its patches that have no effect or are harmful.
        missed: Number of useful patches that it does not have.
        trainings: Number of trainings.
    """

    loss: float
    useless: int
    missed: int
    trainings: int


def figures(training: Training, genome: Genome, trainings: int) -> Figures:
    """Return what a choice is worth."""
    useful = {name: training.is_useful(name, genome) for name in training.patches}
    return Figures(
        training.true_loss(genome),
        sum(bool(genome[name]) and not useful[name] for name in useful),
        sum(not genome[name] and useful[name] for name in useful),
        trainings,
    )


def random_subsets(training: Training, trainings: int, seed: int) -> Figures:
    """Choose the best of random genomes by one training each."""
    rng = np.random.default_rng([seed, 2])
    genomes = [training.space.snap(rng.random(len(training.space.genes))) for _ in range(trainings)]
    losses = [training.train(genome, rng) for genome in genomes]
    ended = [(loss, place) for place, loss in enumerate(losses) if loss is not None]
    return figures(training, genomes[min(ended)[1]], trainings)


def hill_climbing(training: Training, trainings: int, seed: int) -> Figures:
    """Add one patch at a time, or change the learning rate, and keep it if one training is better."""
    rng, space = np.random.default_rng([seed, 3]), training.space
    genome = space.default()
    best, waiting = training.train(genome, rng), list[int]()
    for _ in range(trainings - 1):
        if not waiting:  # once more, in another order, those that are off
            waiting = [n for n in rng.permutation(len(training.patches)) if not genome[training.patches[n]]]
            waiting += [-1, -2, -1, -2]
            waiting = [waiting[place] for place in rng.permutation(len(waiting))]
        step = waiting.pop()
        rate = genome["lr"] * (1.5 if step == -1 else 1 / 1.5)
        child = {**genome, training.patches[step]: True} if step >= 0 else {**genome, "lr": rate}
        loss = training.train(space.snap(space.encode(child)) if step >= 0 else child, rng)
        if loss is not None and best is not None and loss < best:
            genome, best = child, loss
    return figures(training, genome, trainings)


def search(training: Training, trainings: int, seed: int, strategy: str, screens: bool) -> Figures:
    """Choose by a search, one training at a time, with or without the rule for patches."""
    rng = np.random.default_rng([seed, 4])
    ruled = StrategyWithRules(inner=make_strategy(strategy, {}), settings=RunSettings())
    history = RunHistory(training.space, [Minimize("loss")])
    switches = training.patches
    for id in range(trainings):
        default = Proposal(training.space.default(), DEFAULT)
        proposals = np.random.default_rng([seed, 0, id])
        proposal = ruled.propose(history, proposals, switches if screens else ()) if id else default
        assert proposal is not None
        history.add_candidate(Candidate(id, id // ruled.population, 0, id, **vars(proposal)))
        loss = training.train(proposal.genome, rng)
        history.tell(id, Outcome("failed", {}) if loss is None else Outcome("ok", {"loss": loss}))
    trials = history.ranked()
    model = fit_switches(training.space, switches, [trial.genome for trial in trials], history.ranked_losses()[:, 0])
    chosen = trials[0] if model is None or not screens else simplest_of(model, trials)
    return figures(training, chosen.genome, trainings)


def main() -> None:
    parser = argparse.ArgumentParser(description="Which patches of a training are kept.")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first repetition")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.01, 0.04])
    parser.add_argument("--trainings", type=int, default=60)
    parser.add_argument("--strategy", default="saea")
    parser.add_argument("--problem", choices=["random", "example"], default="random")
    given = parser.parse_args()
    for noise in given.noise:
        table: dict[str, list[Figures]] = {}
        for seed in range(given.seed, given.seed + given.repetitions):
            training = make_training(seed, noise) if given.problem == "random" else Example(noise)
            rows = {
                "hill climbing": hill_climbing(training, given.trainings, seed),
                "random subsets": random_subsets(training, given.trainings, seed),
                "search without the rule for patches": search(training, given.trainings, seed, given.strategy, False),
                "search with its rule for patches": search(training, given.trainings, seed, given.strategy, True),
            }
            for method, row in rows.items():
                table.setdefault(method, []).append(row)
        print(f"noise {noise:g}: method, loss, difference to hill climbing, useless, missed, trainings")
        hill = np.array([row.loss for row in table["hill climbing"]])
        for method, figures_of_method in table.items():
            differences = np.array([row.loss for row in figures_of_method]) - hill
            error = differences.std(ddof=1) / np.sqrt(len(hill))
            means = np.mean([[row.useless, row.missed, row.trainings] for row in figures_of_method], axis=0)
            numbers = f"{hill.mean() + differences.mean():.3f}  {differences.mean():+.4f} ± {error:.4f}"
            print(f"{method:40} {numbers}  {'  '.join(f'{mean:.2f}' for mean in means)}")


if __name__ == "__main__":
    main()
