"""Which patches of a training are kept: a search with and without its screening, hill climbing, random subsets.

A simulated training has 14 patches that can be on or off: 8 useful ones (.01 to .10), some of which help or hurt each
other, 4 without effect and 2 harmful ones. Each moves the best learning rate. A training's loss has normal noise. All
methods have the same number of trainings. Hill climbing, as agents do it, adds one patch (or changes the learning rate)
and keeps it if one training is better. The search chooses the trial that its final comparison would train.

    python benchmarks/patches.py
    python benchmarks/patches.py --repetitions 40 --seed 1000 --noise .04
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Training:
    """A simulated training.

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
    def space(self) -> SearchSpace:
        """All genes: the patches and the learning rate."""
        genes = {f"p{number}": SWITCH for number in range(COUNT)}
        return SearchSpace(None, None, lr=Float(1e-4, 1e-2, log=True, default=1e-3), **genes)

    def true_loss(self, genome: Genome) -> float:
        """Return the mean loss of a genome over seeds."""
        on = np.array([bool(genome[f"p{number}"]) for number in range(COUNT)], dtype=float)
        distance = np.log10(genome["lr"]) + 3.0 - self.shifts @ on
        return float(1.5 - self.gains @ on - on @ self.interactions @ on + 0.3 * distance**2)

    def train(self, genome: Genome, rng: np.random.Generator) -> float:
        """Return the loss of one training."""
        return self.true_loss(genome) + rng.normal(0.0, self.noise)


def make_training(seed: int, noise: float) -> Training:
    """Return a training whose patches are in an order of their own."""
    rng = np.random.default_rng([seed, 1])
    gains = np.array([*USEFUL, *(-harm for harm in HARM), *[0.0] * IDLE])
    pairs = np.zeros((COUNT, COUNT))
    for _ in range(5):  # two useful patches that share a part of their effect, or help each other
        first, second = sorted(rng.choice(len(USEFUL), 2, replace=False))
        pairs[first, second] = rng.choice([-0.5, -0.5, 0.5]) * USEFUL[first]
    order, shifts = rng.permutation(COUNT), rng.normal(0.0, 0.1, COUNT)
    pairs = pairs + pairs.T
    return Training(gains[order], np.triu(pairs[np.ix_(order, order)]), shifts, noise)


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
    on = np.array([bool(genome[f"p{number}"]) for number in range(COUNT)])
    return Figures(
        training.true_loss(genome),
        int((on & (training.gains <= 0.0)).sum()),
        int((~on & (training.gains > 0.0)).sum()),
        trainings,
    )


def random_subsets(training: Training, trainings: int, seed: int) -> Figures:
    """Choose the best of random genomes by one training each."""
    rng = np.random.default_rng([seed, 2])
    genomes = [training.space.snap(rng.random(COUNT + 1)) for _ in range(trainings)]
    losses = [training.train(genome, rng) for genome in genomes]
    return figures(training, genomes[int(np.argmin(losses))], trainings)


def hill_climbing(training: Training, trainings: int, seed: int) -> Figures:
    """Add one patch at a time, or change the learning rate, and keep it if one training is better."""
    rng = np.random.default_rng([seed, 3])
    genome = training.space.default()
    best, waiting = training.train(genome, rng), list[int]()
    for _ in range(trainings - 1):
        if not waiting:  # once more, in another order, those that are off
            waiting = [n for n in rng.permutation(COUNT) if not genome[f"p{n}"]] + [-1, -2, -1, -2]
            waiting = [waiting[place] for place in rng.permutation(len(waiting))]
        step = waiting.pop()
        change = {f"p{step}": True} if step >= 0 else {"lr": genome["lr"] * (1.5 if step == -1 else 1 / 1.5)}
        child = {**genome, **change}
        loss = training.train(child, rng)
        if loss < best:
            genome, best = child, loss
    return figures(training, genome, trainings)


def search(training: Training, trainings: int, seed: int, strategy: str, screens: bool) -> Figures:
    """Choose by a search, one training at a time, which may screen the patches from its 21st genome on."""
    rng = np.random.default_rng([seed, 4])
    ruled = StrategyWithRules(inner=make_strategy(strategy, {}), settings=RunSettings())
    history = RunHistory(training.space, [Minimize("loss")])
    switches = [f"p{number}" for number in range(COUNT)]
    for id in range(trainings):
        default = Proposal(training.space.default(), DEFAULT)
        proposals = np.random.default_rng([seed, 0, id])
        proposal = ruled.propose(history, proposals, switches if screens else ()) if id else default
        assert proposal is not None
        history.add_candidate(Candidate(id, id // ruled.population, 0, id, **vars(proposal)))
        history.tell(id, Outcome("ok", {"loss": training.train(proposal.genome, rng)}))
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
    given = parser.parse_args()
    for noise in given.noise:
        table: dict[str, list[Figures]] = {}
        for seed in range(given.seed, given.seed + given.repetitions):
            training = make_training(seed, noise)
            rows = {
                "hill climbing": hill_climbing(training, given.trainings, seed),
                "random subsets": random_subsets(training, given.trainings, seed),
                "search, its best trial": search(training, given.trainings, seed, given.strategy, False),
                "search with screening, its finalist": search(training, given.trainings, seed, given.strategy, True),
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
