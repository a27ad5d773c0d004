"""The methods that search.py compares: strategies of evo-tune, and other tools in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from problems import Instance, Losses

from evo_tune import Choice, Float, Minimize
from evo_tune.genome.history import RunHistory
from evo_tune.genome.kernel import category_counts, encode_features
from evo_tune.genome.seeds import predict_losses
from evo_tune.genome.trial import DEFAULT, Candidate, Constraint, Outcome, Proposal
from evo_tune.genome.view import trials_by_genome
from evo_tune.plugins.find import make_strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings

NO_RULES = RunSettings()

PEERS = ("smac", "hyperopt", "nevergrad", "optuna", "cmaes", "torch", "setuptools<81")
"""What the environment of the others holds; torch is for Optuna's Gaussian process, setuptools for Hyperopt."""


class Player(Protocol):
    """A method, playing one run."""

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """Return a handle for `tell` and the genome to be trained."""

    def tell(self, handle: Any, losses: Losses | None) -> None:
        """Take a result; None is a failure."""

    def recommended(self) -> dict[str, Any] | None:
        """Return the best genome so far; None if there is none."""


Maker = Callable[..., Player]
"""Begins a run from an instance, a seed, the number of evaluations and the process of the peers (`Line`)."""


class Ours:
    """A strategy of evo-tune, driven as `Search` drives it, without a journal.

    Args:
        instance: What to play on.
        seed: Of the run.
        name: The strategy's.
        rules: Around it.
        options: The strategy's.
    """

    def __init__(self, instance: Instance, seed: int, name: str, rules: RunSettings = NO_RULES, **options: Any) -> None:
        constraints = [Constraint(f"limit{place}", 0.0, 1.0) for place in range(instance.constraints)]
        self.strategy = StrategyWithRules(inner=make_strategy(name, options), settings=rules, constraints=constraints)
        self.objectives = [Minimize(f"loss{place}") for place in range(instance.objectives)]
        self.metrics = [one.metric for one in (*self.objectives, *constraints)]
        self.history = RunHistory(instance.space, self.objectives, constraints)
        self.seed = seed

    def ask(self) -> tuple[Any, dict[str, Any]]:
        history, id = self.history, self.history.proposed_count
        rng = np.random.default_rng([self.seed, 0, id])
        proposal = self.strategy.propose(history, rng) if id else Proposal(history.space.default(), DEFAULT)
        if proposal is None:
            raise StopIteration("the strategy has no more to propose")
        generation = history.fresh_count // self.strategy.population
        history.add_candidate(Candidate(id, generation, 0, len(history.trials), **vars(proposal)))
        return id, proposal.genome

    def tell(self, handle: Any, losses: Losses | None) -> None:
        if losses is None:
            outcome = Outcome("failed", error="no such cell")
        else:
            outcome = Outcome("ok", dict(zip(self.metrics, losses, strict=True)))
        self.history.tell(handle, outcome)

    def recommended(self) -> dict[str, Any] | None:
        """Return what a run of evo-tune would: the best by the mean over seeds, or by expectation, as its rules are."""
        told = [one for one in trials_by_genome(self.history).values() if one.losses(1.0) is not None]
        if not told:
            return None
        if not self.strategy.settings.seeds_are_automatic:
            return min(told, key=lambda one: (one.losses(1.0), one.first_candidate.id)).first_candidate.genome
        sizes, units = category_counts(self.history.space), self.history.proposed_units
        known = [
            {
                one.candidate.extra_seed: one.losses[0]
                for one in (entry.trial_by_budget[1.0], *entry.extra_seed_trials)
                if one.losses
            }
            for entry in told
        ]
        order = predict_losses(
            known,
            lambda rows: encode_features(np.stack([units[told[row].first_candidate.id] for row in rows]), sizes),
            sizes > 0,
        )
        return told[next(iter(order))].first_candidate.genome


class Peer:
    """Another tool's optimiser, in the process that `line` talks to.

    Args:
        instance: What to play on.
        seed: Of the run.
        evaluations: Of the run, which some of the tools want to know.
        line: The process.
        method: Its name in `peers.py`.
        default: Begin with the default genome.
    """

    def __init__(
        self, instance: Instance, seed: int, evaluations: int, line: Line, method: str, default: bool = False
    ) -> None:
        self.line, self.space, self.asked = line, instance.space, 0
        self.best: tuple[float, dict[str, Any] | None] = (np.inf, None)
        self.out: dict[int, dict[str, Any]] = {}
        run = {"play": method, "seed": seed, "objectives": instance.objectives, "evaluations": evaluations}
        run["constraints"] = instance.constraints
        genes = [_kind(gene, self.space) for gene in self.space.genes.values()]
        first = [_number(gene, self.space.default()[name]) for name, gene in self.space.genes.items()]
        line.send(**run, genes=genes, first=first if default else None)

    def ask(self) -> tuple[Any, dict[str, Any]]:
        self.asked += 1
        point = self.line.send(ask=self.asked)
        genes, default = self.space.genes.items(), self.space.default()
        genome = {
            name: default[name] if number is None else _value(gene, number)
            for (name, gene), number in zip(genes, point, strict=True)
        }
        self.out[self.asked] = genome
        return self.asked, genome

    def tell(self, handle: Any, losses: Losses | None) -> None:
        self.line.send(tell=handle, losses=losses)
        if losses is not None and losses[0] < self.best[0]:
            self.best = losses[0], self.out[handle]

    def recommended(self) -> dict[str, Any] | None:
        """Return the genome that looked best in a training, as these tools do."""
        return self.best[1]


def _kind(gene: Any, space: Any) -> tuple[str, int, list[tuple[int, list[int]]]]:
    """Return a gene's kind, size and condition: indices of genes, each with the indices of its values."""
    names = list(space.genes)
    when = [
        (names.index(other), [int(_number(space.genes[other], value)) for value in values])
        for other, values in gene.when or ()
    ]
    if isinstance(gene, Float):
        return "real", 0, when
    return "unordered" if isinstance(gene, Choice) and not gene.ordered else "ordered", int(gene.size), when


def _value(gene: Any, number: float) -> Any:
    return gene.decode(number if isinstance(gene, Float) else (round(number) + 0.5) / gene.size)


def _number(gene: Any, value: Any) -> float:
    return gene.encode(value) if isinstance(gene, Float) else int(gene.encode(value) * gene.size)


class Line:
    """A process of `peers.py`, spoken to in lines of JSON; it starts with the first of them.

    Args:
        environment: Folder of its virtual environment, made if it is absent.
    """

    def __init__(self, environment: Path) -> None:
        self.environment = environment
        self.process: subprocess.Popen[str] | None = None

    def send(self, **message: Any) -> Any:
        """Return the answer to a message."""
        if self.process is None:
            command = [str(python_of(self.environment)), str(Path(__file__).with_name("peers.py"))]
            environ = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(message), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of the peers ended with {self.process.wait()} at {message}")
        return json.loads(answer)


def python_of(environment: Path) -> Path:
    """Return the Python of the environment of the peers, which is made and filled the first time."""
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (environment / "ready").is_file():
        print(f"installing {', '.join(PEERS)} in {environment}", file=sys.stderr)
        venv.create(environment, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True, stdout=sys.stderr)
        (environment / "ready").touch()
    return python


def ours(name: str, **options: Any) -> Maker:
    return lambda instance, seed, evaluations, line: Ours(instance, seed, name, **options)


def peer(method: str, default: bool = False) -> Maker:
    return lambda instance, seed, evaluations, line: Peer(instance, seed, evaluations, line, method, default)


WORTH = RunSettings(seeds_per_trial="auto", seeds="shared")

# `cma` is not among them: every table and function has a choice, which it refuses.
METHODS: dict[str, Maker] = {
    "saea": ours("saea"),
    "saea, --seeds-per-trial auto": ours("saea", rules=WORTH),
    "ga": ours("ga"),
    "random": ours("random"),
    "hill": ours("hill"),
    "staged": ours("staged"),
    "tpe": ours("tpe"),
    "hyperopt": ours("hyperopt"),
    "optuna tpe": peer("optuna tpe"),
    "optuna tpe, default first": peer("optuna tpe", default=True),
    "optuna tpe, constant liar": peer("optuna tpe, constant liar", default=True),
    "hyperopt tpe": peer("hyperopt tpe"),
    "nevergrad ngopt": peer("nevergrad ngopt"),
    "smac3": peer("smac3"),
    "optuna gp": peer("optuna gp"),
    "optuna gp, default first": peer("optuna gp", default=True),
}

FRONTS: dict[str, Maker] = {
    "saea": ours("saea"),
    "nsga2": ours("nsga2"),
    "random": ours("random"),
    "optuna nsga2": peer("optuna nsga2"),
    "optuna default": peer("optuna default"),
    "optuna tpe": peer("optuna tpe"),
    "optuna gp": peer("optuna gp"),
}
"""Those that can do two objectives."""

SLOTS = ("saea", "ga", "random", "optuna tpe, constant liar")
"""Those that play with several slots, if no --methods are given; Optuna's TPE begins with the default, as ours do."""

FURTHER: dict[str, Maker] = {
    "saea": ours("saea"),
    "saea, --seeds-per-trial 2": ours("saea", rules=RunSettings(seeds_per_trial=2)),
    "saea, --seeds-per-trial auto": METHODS["saea, --seeds-per-trial auto"],
    "ga": ours("ga"),
    "ga, --seeds-per-trial auto": ours("ga", rules=WORTH),
    "random": ours("random"),
    "random, --seeds-per-trial auto": ours("random", rules=WORTH),
    "optuna tpe": peer("optuna tpe"),
    "optuna tpe, default first": peer("optuna tpe", default=True),
}
"""With and without further seeds of a genome, and those who know of no such thing."""
