"""What a birth costs in a long run, and what its commands take: every rule, three strategies, 10,000 trials.

A run is grown to so many trials by random genomes under its rules, in memory, with a quadratic in place of trainings.
Then the strategy proposes by turns with results, and the processor's milliseconds of each proposal are counted: those
of new genomes, and those of further trials. `--commands` writes a run to disk through `Search.ask` and `tell` and
times `status`, `show` and the opening of `resume` as processes of their own. `--genes` counts what a proposal of
saea costs in a space of so many genes, in trials 20 to 60 of a run.

    python benchmarks/births.py
    python benchmarks/births.py --rules prune seeds_per_trial --strategies saea --trials 3000
    python benchmarks/births.py --commands
    python benchmarks/births.py --genes 10 50 200
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evo_tune import Choice, Float, Int, Minimize, Search, SearchSpace
from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.trial import Candidate, Constraint, Objective, Outcome, Proposal, trial_seed
from evo_tune.genome.values import Genome
from evo_tune.plugins.context import Context, Pruned
from evo_tune.plugins.find import make_strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings

SPACE = SearchSpace(
    lr=Float(1e-5, 1e-1, log=True),
    batch=Choice((8, 16, 32, 64, 128), ordered=True),
    depth=Int(1, 24),
    width=Int(64, 1024, step=64),
    dropout=Float(0.0, 0.5),
    schedule=Choice(("cosine", "wsd", "linear")),
)

SIZE = (Constraint.parse("size<=18000"),)
RUNGS = (1 / 9, 1 / 3, 1.0)
FIDELITY = ",".join(map(str, RUNGS))
RULES = {
    "none": RunSettings(),
    "constraint": RunSettings(),
    "rungs": RunSettings(fidelity=FIDELITY),
    "prune": RunSettings(prune=True),
    "seeds_per_trial": RunSettings(seeds_per_trial=3),
    "auto": RunSettings(seeds_per_trial="auto", seeds="shared"),
    "everything": RunSettings(fidelity=FIDELITY, prune=True, seeds_per_trial=3),
}
CONSTRAINED = ("constraint", "everything")
"""By what the table calls them."""

OBJECTIVES: tuple[Objective, ...] = (Minimize("loss"), Minimize("cost"))


def estimate(genome: Genome) -> dict[str, float]:
    """Return what is known of a genome before its training."""
    return {"size": float(int(genome["width"]) * int(genome["depth"]))}


@dataclass
class World:
    """A run in memory: births and results by turns, as with a few slots.

    Args:
        rules: Its rules.
        objectives: Its objectives.
        seed: Of the run, and of the noise.
        slots: Trainings that are out.
        constraints: Its constraints.
    """

    rules: RunSettings
    objectives: Sequence[Objective]
    seed: int = 0
    slots: int = 4
    constraints: tuple[Constraint, ...] = ()
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.history = RunHistory(SPACE, self.objectives, self.constraints)
        self.rng = np.random.default_rng(self.seed)

    def grow(self, strategy: StrategyWithRules) -> None:
        """Have one candidate born without a view of the run: what is due, or a random genome; and one told."""
        history, rules = self.history, strategy.settings
        proposal = strategy.next_promotion_or_seed(history) if history.proposed_count else self._default()
        if proposal is None:
            proposal = Proposal(SPACE.sample(self.rng), "random", budget=rules.rungs[0])
        self._born(proposal, strategy)

    def step(self, strategy: StrategyWithRules) -> tuple[Proposal, float]:
        """Have one candidate born, and one told once the slots are full; return it and its milliseconds."""
        history = self.history
        generator = np.random.default_rng([self.seed, 0, history.proposed_count])
        began = time.process_time()
        proposal = strategy.propose(history, generator) if history.proposed_count else self._default()
        cost = 1e3 * (time.process_time() - began)
        assert proposal is not None
        self._born(proposal, strategy)
        return proposal, cost

    def _born(self, proposal: Proposal, strategy: StrategyWithRules) -> None:
        history = self.history
        history.add_candidate(
            Candidate(
                id=history.proposed_count,
                generation=history.fresh_count // strategy.population,
                seed=trial_seed(self.seed, proposal.extra_seed),
                reported_before=len(history.trials),
                **{name: getattr(proposal, name) for name in Proposal.__dataclass_fields__},
            )
        )
        if len(history.pending) >= self.slots:
            one = history.pending[0]
            history.tell(one.id, self.trained(one))

    def trained(self, one: Candidate) -> Outcome:
        """Return what came of a candidate: a curve that falls to a quadratic of its genome, and one in twenty fails."""
        if self.rng.random() < 0.05:
            return Outcome("failed", error="no luck")
        units = SPACE.encode(one.genome)
        last = float(((units - 0.3) ** 2).sum()) + 0.05 * self.rng.normal()
        if self.rules.prune and not one.stop_if and self.rng.random() < 0.3:
            return Outcome(
                "pruned", {}, ((1 / 8, {"loss": last + 2.0}), (1 / 4, {"loss": last + 1.5})), error="hopeless"
            )
        context = Context(stop_if=one.stop_if, objectives=[OBJECTIVES[0]])
        try:
            for eighths in range(1, int(8 * one.budget) + 1):
                context.report(eighths / 8, loss=last + (1.0 - eighths / 8) * (1.0 + 0.3 * self.rng.normal()))
        except Pruned as pruned:
            return Outcome("pruned", {}, tuple(context.curve), error=str(pruned))
        metrics = {"loss": last + 1.0 - one.budget, "cost": float(((units - 0.7) ** 2).sum()), **estimate(one.genome)}
        return Outcome("ok", metrics, tuple(context.curve), seconds=1.0, device="cpu")

    def _default(self) -> Proposal:
        return Proposal(SPACE.default(), "default", budget=self.rules.rungs[0])


def ruled(name: str, rules: RunSettings, constraints: Sequence[Constraint]) -> StrategyWithRules:
    """Return a strategy with rules around it."""
    return StrategyWithRules(
        inner=make_strategy(name, {"population": 24}), settings=rules, constraints=constraints, estimate=estimate
    )


def grown(
    rules: RunSettings, constraints: tuple[Constraint, ...], objectives: Sequence[Objective], trials: int
) -> World:
    """Return a run of so many told trials, of random genomes."""
    world = World(rules, objectives, constraints=constraints)
    strategy = ruled("random", rules, constraints)
    while len(world.history.trials) < trials:
        world.grow(strategy)
    return world


def row(name: str, rules: RunSettings, strategy: str, trials: int, births: int) -> str:
    """Return a row of the table."""
    several = (strategy == "nsga2" or name.endswith("two")) and not rules.seeds_are_automatic
    if several and rules.prune:
        rules = dataclasses.replace(rules, prune=False)
    began = time.process_time()
    constraints = SIZE if name in CONSTRAINED else ()
    world = grown(rules, constraints, OBJECTIVES[: 2 if several else 1], trials)
    timed = ruled(strategy, rules, constraints)
    each = 1e3 * (time.process_time() - began) / trials
    proposal, first = world.step(timed)
    for _ in range(20 * births):
        if proposal.fresh:
            break
        proposal, cost = world.step(timed)
        first = max(first, cost)  # what new genomes need is made for the first of them
    new, further = [], []
    while len(new) < births and len(new) + len(further) < 20 * births:
        proposal, cost = world.step(timed)
        (new if proposal.fresh else further).append(cost)
    columns = [statistics.fmean(new), max(new)] if new else [float("nan")] * 2
    columns += [statistics.fmean(further) if further else 0.0, first, each]
    return f"{name:<12}{strategy:<8}" + "".join(f"{value:>10.1f}" for value in columns)


EVALUATOR = """
from evo_tune import Choice, Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(
    lr=Float(1e-5, 1e-1, log=True),
    batch=Choice((8, 16, 32, 64, 128), ordered=True),
    depth=Int(1, 24),
    width=Int(64, 1024, step=64),
    dropout=Float(0.0, 0.5),
    schedule=Choice(("cosine", "wsd", "linear")),
)
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget", "curve"]


def evaluate(genome, context):
    raise NotImplementedError
"""
"""The same space in a file of its own, which is never evaluated here."""


def commands(trials: int, rules: str) -> None:
    """Print how long the commands of a run of so many trials take, in seconds of the clock and of the processor."""
    given = RULES[rules]
    with tempfile.TemporaryDirectory(prefix="births-") as name:
        folder = Path(name)
        (folder / "quadratic.py").write_text(EVALUATOR)
        search = Search(
            str(folder / "quadratic.py"),
            strategy="random",
            store=folder / "store",
            trials=10**9,
            name="long",
            fidelity=given.fidelity,
            prune=given.prune,
            seeds_per_trial=given.seeds_per_trial,
        )
        world = World(given, OBJECTIVES[:1])
        while len(search.saved.outcomes) < trials:
            candidate = search.ask()
            assert candidate is not None
            search.tell(candidate, world.trained(candidate))
        search.close()
        births = str(search.history.fresh_count)
        lines = {
            "status": ["status", "long"],
            "show": ["show", "long"],
            "resume": ["resume", "long", "--trials", births, "--no-report", "--final-seeds", "0", "--quiet", "--trust"],
        }
        for line, words in lines.items():
            print(
                f"{line:<10}"
                + "  ".join(f"{clock:.2f} s ({cpu:.2f} of a processor)" for clock, cpu in timed(words, folder))
            )


def timed(words: list[str], folder: Path, rounds: int = 3) -> list[tuple[float, float]]:
    """Return the clock's and the processor's seconds of a command, of each round."""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    found = []
    for _ in range(rounds):
        before, began = os.times(), time.perf_counter()
        command = [sys.executable, "-m", "evo_tune", *words, "--store", str(folder / "store")]
        done = subprocess.run(command, capture_output=True, text=True, env=here, cwd=folder)
        if done.returncode:
            raise SystemExit(done.stderr)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        found.append((time.perf_counter() - began, used))
    return found


def by_genes(counts: Sequence[int]) -> None:
    """Print the processor's milliseconds of a proposal of saea, by the number of genes, of which four matter."""
    print(f"{'genes':<8}{'mean':>8}{'median':>8}   milliseconds of a processor, trials 20 to 60")
    for count in counts:
        space = SearchSpace(**{f"x{place}": Float(0.0, 1.0) for place in range(count)})
        history, strategy, spent = RunHistory(space, OBJECTIVES[:1]), make_strategy("saea", {}), []
        for id in range(60):
            began = time.process_time()
            proposal = strategy.propose(history, np.random.default_rng([0, 0, id])) if id else None
            spent.append(1e3 * (time.process_time() - began))
            genome = proposal.genome if proposal else space.default()
            history.add_candidate(Candidate(id, id // 12, 0, id, genome, proposal.operator if proposal else "default"))
            loss = float(((space.encode(genome)[:4] - 0.3) ** 2).sum())
            history.tell(id, Outcome("ok", {"loss": loss}))
        print(f"{count:<8}{statistics.fmean(spent[20:]):8.1f}{statistics.median(spent[20:]):8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--strategies", nargs="*", default=["ga", "saea", "nsga2"])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--births", type=int, default=30, help="new genomes that are timed")
    parser.add_argument("--commands", action="store_true", help="time status, show and resume instead")
    parser.add_argument("--genes", nargs="+", type=int, help="cost by the number of genes instead")
    given = parser.parse_args()
    if given.genes:
        by_genes(given.genes)
        return
    if given.commands:
        for rules in given.rules:
            print(rules)
            commands(given.trials, rules)
        return
    print(f"{given.trials} trials; milliseconds of a processor")
    print(f"{'':<20}{'new':>10}{'most':>10}{'further':>10}{'first':>10}{'growing':>10}", flush=True)
    for rules in given.rules:
        for strategy in given.strategies:
            print(row(rules, RULES[rules], strategy, given.trials, given.births), flush=True)


if __name__ == "__main__":
    main()
