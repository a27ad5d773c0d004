"""A strategy with rules around it keeps the contract of a strategy, and its rules do what they say."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from evo_tune import settings
from evo_tune.genome.trial import Candidate, Constraint, Minimize, Objective, Outcome, Proposal
from evo_tune.genome.values import Genome, genome_key
from evo_tune.genome.view import trials_by_genome
from evo_tune.plugins.context import Context, Pruned
from evo_tune.plugins.find import make_strategy
from evo_tune.plugins.strategy import Strategy
from evo_tune.rules import extra_seeds
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings
from tests.strategies.cases import OBJECTIVES, SPACES
from tests.strategies.simulate import Born, Refused, Simulation, Told, birth_rng, rebuild

SPACE = SPACES["mixed"]
RUNGS = (1 / 9, 1 / 3, 1.0)
FIDELITY = ",".join(map(str, RUNGS))
LOSS: list[Objective] = [Minimize("loss")]
WIDTH = Constraint.parse("width<=80")

Loss = Callable[[np.ndarray, float], float]


def honest(units: np.ndarray, budget: float) -> float:
    """The order at every budget is that of the full training."""
    return float(((units - 0.3) ** 2).sum()) + 1.0 - budget


def misleading(units: np.ndarray, budget: float) -> float:
    """What is best in the end is worst before."""
    return honest(units, 1.0) if budget == 1.0 else 10.0 - honest(units, 1.0)


def trained(loss: Loss = honest, noise: float = 0.0, fail: float = 0.0) -> Callable[[Candidate], Outcome]:
    """Return a landscape with learning curves, seeds that matter, and failures."""

    def evaluate(candidate: Candidate) -> Outcome:
        luck = np.random.default_rng([candidate.seed % 2**31, *genome_key(candidate.genome).encode()]).normal()
        units = SPACE.encode(candidate.genome)
        context = Context(stop_if=candidate.stop_if, objectives=LOSS)
        try:
            for eighths in range(1, math.floor(8 * candidate.budget) + 1):
                context.report(eighths / 8, loss=loss(units, eighths / 8))
        except Pruned as pruned:
            return Outcome("pruned", {}, tuple(context.curve), error=str(pruned))
        if abs(luck) < fail:
            return Outcome("diverged", {}, tuple(context.curve), error="no luck")
        metrics = {
            "loss": loss(units, candidate.budget) + noise * luck,
            "cost": float(((units - 0.7) ** 2).sum()),
            "width": float(candidate.genome["width"]),
        }
        return Outcome("ok", metrics, tuple(context.curve), seconds=0.1, device="cpu")

    return evaluate


def estimate(genome: Genome) -> dict[str, float]:
    return {"width": float(genome["width"])}


def ruled(
    name: str,
    rules: RunSettings | None = None,
    constraints: Sequence[Constraint] = (),
    known: bool = False,
    **options: object,
) -> StrategyWithRules:
    inner = make_strategy(name, {"population": 4, **options})
    return StrategyWithRules(
        inner=inner,
        settings=rules or RunSettings(),
        constraints=constraints,
        estimate=estimate if known else lambda genome: {},
    )


EVERYTHING = RunSettings(fidelity=FIDELITY, prune=True, seeds_per_trial=3)
VARIANTS = {
    "random, rungs": ruled("random", RunSettings(fidelity=FIDELITY)),
    "ga, all": ruled("ga", EVERYTHING, (WIDTH,)),
    "ga, generational, all, known": ruled("ga", EVERYTHING, (WIDTH,), known=True, generational=True),
    "saea, all, known": ruled("saea", EVERYTHING, (WIDTH,), known=True),
    "ga, pruning": ruled("ga", RunSettings(prune=True)),
    "ga, extra seeds": ruled("ga", RunSettings(seeds_per_trial=2)),
    "ga, further seeds by worth": ruled("ga", RunSettings(seeds_per_trial="auto", seeds="shared"), (WIDTH,)),
    "saea, further seeds by worth, pruning": ruled(
        "saea", RunSettings(prune=True, seeds_per_trial="auto", seeds="shared")
    ),
    "random, constraint": ruled("random", constraints=(WIDTH,)),
    "nsga2, rungs, constraint": ruled("nsga2", RunSettings(fidelity=FIDELITY), (WIDTH,)),
}


@pytest.fixture(params=VARIANTS)
def strategy(request: pytest.FixtureRequest) -> StrategyWithRules:
    return VARIANTS[request.param]


@pytest.fixture
def known(strategy: StrategyWithRules) -> Simulation:
    """A run on three slots of which several tests look at one thing each; none changes it."""
    return _known(next(name for name, one in VARIANTS.items() if one is strategy))


@functools.cache
def _known(name: str) -> Simulation:
    return simulate(VARIANTS[name], slots=3)


def simulate(strategy: Strategy, **fields: object) -> Simulation:
    several = isinstance(strategy, StrategyWithRules) and strategy.inner.several_objectives
    objectives = OBJECTIVES if several and strategy.settings.rungs == RUNGS and not strategy.settings.prune else LOSS
    given = {"objectives": objectives, "evaluate": trained(noise=0.02, fail=0.15), "births": 24, **fields}
    return Simulation(strategy, SPACE, **given).run()  # type: ignore[arg-type]


def births(run: Simulation) -> list[tuple[object, ...]]:
    return [(genome_key(c.genome), c.parents, c.budget, c.resumes, c.extra_seed, c.stop_if) for c in run.candidates]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["arrival", "proposal"])
def test_a_run_resumed_at_any_cut_goes_on_the_same(strategy: StrategyWithRules, known: Simulation, order: str) -> None:
    run = known if order == "arrival" else simulate(strategy, slots=4, order="proposal", lag=3, births=16)
    for cut, event in list(enumerate(run.events))[order == "proposal" :: 2]:
        if isinstance(event, Told) or (isinstance(event, Born) and event.candidate.id == 0):
            continue
        history = rebuild(SPACE, run.objectives, run.events[:cut], strategy.constraints)
        proposal = replace(strategy).propose(history, birth_rng(run.seed, history.proposed_count))
        if isinstance(event, Refused):
            assert proposal is None
        else:
            assert proposal is not None
            assert vars(proposal).items() <= vars(event.candidate).items()
    history = rebuild(SPACE, run.objectives, run.events, strategy.constraints)
    assert list(strategy.survivors(history)) == list(strategy.survivors(run.history))
    assert set(strategy.survivors(history)) <= {trial.id for trial in history.trials}


def test_every_trial_is_where_the_rules_want_it(strategy: StrategyWithRules, known: Simulation) -> None:
    run = known
    rungs, told = strategy.settings.rungs, {trial.id: trial for trial in run.history.trials}
    fresh = [c for c in run.candidates if c.fresh]
    assert len(fresh) == len({genome_key(c.genome) for c in run.candidates}) == run.history.fresh_count == 24
    assert {c.budget for c in fresh} == {rungs[0]}
    for candidate in run.candidates:
        assert SPACE.snap(SPACE.encode(candidate.genome)) == candidate.genome
        assert all(run.candidates[parent].fresh for parent in candidate.parents)
        if candidate.resumes is not None:
            before = told[candidate.resumes]
            assert before.ok
            assert before.genome == candidate.genome
            assert rungs.index(candidate.budget) == rungs.index(before.candidate.budget) + 1
    assert max(Counter((genome_key(c.genome), c.budget, c.extra_seed) for c in run.candidates).values()) == 1
    default = [trial for trial in told.values() if trial.genome == run.candidates[0].genome]
    assert any(trial.rankable or not trial.ok for trial in default)  # trained in full, whatever it shows


def test_what_is_due_is_done_at_the_limit(strategy: StrategyWithRules, known: Simulation) -> None:
    assert not known.history.pending
    assert strategy.next_promotion_or_seed(known.history) is None


def test_with_one_slot_a_limit_changes_nothing_that_comes_after(strategy: StrategyWithRules) -> None:
    short, long = simulate(strategy, births=9), simulate(strategy, births=17)
    assert births(short) == births(long)[: len(births(short))]


def full_share(loss: Loss) -> float:
    run = simulate(ruled("random", RunSettings(fidelity=FIDELITY)), evaluate=trained(loss), births=81, slots=2)
    return len(run.history.ranked()) / 81


def test_early_results_select_as_sharply_as_they_are_right() -> None:
    audits = {0, 1, 2, 8, 32}
    assert 1 / 9 <= full_share(honest) <= 1 / 9 + len(audits) / 81 + 0.05
    assert full_share(misleading) > 0.8


def test_the_best_in_the_end_is_found_where_early_results_mislead() -> None:
    run = simulate(ruled("random", RunSettings(fidelity=FIDELITY)), evaluate=trained(misleading), births=60)
    best = run.history.best
    assert best is not None
    assert best.losses is not None
    in_the_end = sorted(misleading(SPACE.encode(c.genome), 1.0) for c in run.candidates if c.resumes is None)
    assert len(in_the_end) == 60
    assert best.losses[0] <= in_the_end[2], "halving by early ranks would keep the worst third"


def test_hopeless_curves_are_stopped_and_promising_ones_are_not() -> None:
    run = simulate(ruled("random", RunSettings(prune=True)), evaluate=trained(), births=60)
    plain = simulate(ruled("random", RunSettings()), evaluate=trained(), births=60)
    final = {genome_key(t.genome): t.losses for t in plain.history.trials}
    assert [c.genome for c in run.candidates] == [c.genome for c in plain.candidates]
    pruned = [final[genome_key(t.genome)] for t in run.history.trials if t.outcome.status == "pruned"]
    assert len(pruned) > 15
    assert min(pruned) > sorted(final.values())[5]  # type: ignore[type-var]
    assert run.history.best is not None
    assert plain.history.best is not None
    assert run.history.best.genome == plain.history.best.genome


def test_misleading_curves_stop_hardly_anything() -> None:
    run = simulate(ruled("random", RunSettings(prune=True)), evaluate=trained(misleading), births=60)
    assert sum(trial.outcome.status == "pruned" for trial in run.history.trials) <= 3


def test_the_leader_has_had_all_its_seeds() -> None:
    run = simulate(ruled("ga", RunSettings(seeds_per_trial=3)), evaluate=trained(noise=0.3), births=30, slots=2)
    means = {}
    for trial in run.history.trials:
        means.setdefault(genome_key(trial.genome), []).append(trial.losses)
    seeds = len(means[min(means, key=lambda key: np.mean(means[key]))])
    assert seeds == 3
    assert 30 + 2 <= len(run.candidates) <= 30 + 2 * 20
    assert {c.seed for c in run.candidates if c.extra_seed == 1}.isdisjoint({c.seed for c in run.candidates if c.fresh})


def by_worth(noise: float, births: int = 40, **fields: object) -> Simulation:
    """Return a run of `saea` that trains further seeds where it is worth it, on a bowl with so much noise."""
    rules = RunSettings(seeds_per_trial="auto", seeds="shared")
    return simulate(ruled("saea", rules), evaluate=trained(noise=noise), births=births, **fields)


@pytest.mark.slow
def test_further_seeds_are_for_where_seeds_differ() -> None:
    """The landscape's losses differ by about .5; where a seed changes nothing, it is tried once."""
    certain, uncertain = (
        [sum(one.extra_seed > 0 for one in by_worth(noise, seed=seed).candidates) for seed in range(2)]
        for noise in (0.0, 0.5)
    )
    assert max(certain) <= 1
    assert sum(uncertain) >= 4


@pytest.mark.slow
def test_the_better_genomes_get_further_seeds() -> None:
    again, all_of_them = [], []
    for seed in range(2):
        run = by_worth(0.1, seed=seed)
        for one in run.candidates:
            (again if one.extra_seed else all_of_them).append(honest(SPACE.encode(one.genome), 1.0))
        assert len({(genome_key(one.genome), one.extra_seed) for one in run.candidates}) == len(run.candidates)
    assert np.mean(again) < 0.8 * np.mean(all_of_them)


def test_a_strategy_is_shown_genomes_in_the_order_of_what_is_expected_of_them() -> None:
    differs = 0
    for seed in range(2):
        run = by_worth(0.4, births=24, seed=seed)
        doubt = extra_seeds.SeedGains(SPACE, 4)
        for trial in run.history.trials:
            doubt.update(trial, run.history.proposed_units[trial.id])
        shown = [genome_key(run.candidates[id].genome) for id in run.strategy.survivors(run.history)]
        assert shown == list(doubt.predict_losses([]))[:4]
        seen = sorted(
            (entry.losses(1.0), key) for key, entry in trials_by_genome(run.history).items() if entry.losses(1.0)
        )
        differs += shown != [key for _, key in seen][:4]
    assert differs


@pytest.mark.parametrize("cap", [2, 4])
def test_no_genome_gets_more_seeds_than_there_may_be(cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a price of 0 the rounding of gains near 0 would decide, and NumPy versions round differently.
    monkeypatch.setattr(extra_seeds, "PRICE", -1.0)  # an extra seed is worth more than a new genome
    monkeypatch.setattr(settings, "MAX_AUTOMATIC_SEEDS", cap)
    strategy = ruled("random", RunSettings(seeds_per_trial="auto", seeds="shared"))
    run = simulate(strategy, evaluate=trained(noise=0.3), births=14)
    assert max(one.extra_seed for one in run.candidates) == cap - 1


def test_further_seeds_are_at_most_a_quarter_of_what_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra_seeds, "PRICE", -1.0)
    strategy = ruled("random", RunSettings(seeds_per_trial="auto", seeds="shared"))
    run = simulate(strategy, evaluate=trained(noise=0.3), births=30, slots=6)
    out: dict[int, bool] = {}
    most = 0
    for event in run.events:
        if isinstance(event, Born):
            if event.candidate.extra_seed:
                assert 4 * sum(out.values()) <= len(out)
            out[event.candidate.id] = event.candidate.extra_seed > 0
            most = max(most, sum(out.values()))
        elif isinstance(event, Told):
            del out[event.id]
    assert most == 2


@pytest.mark.parametrize("name", ["ga", "saea", "random"])
def test_a_genome_known_to_break_a_constraint_is_not_trained(name: str) -> None:
    run = simulate(ruled(name, constraints=(WIDTH,), known=True), births=40)
    assert all(candidate.genome["width"] <= 80 for candidate in run.candidates[1:])


def test_a_constraint_learned_from_outcomes_steers() -> None:
    run = simulate(ruled("ga", constraints=(Constraint.parse("width<=32"),)), births=60)
    late = [candidate.genome["width"] for candidate in run.candidates[-20:]]
    assert np.mean(np.array(late) <= 32) > 0.6
    assert run.history.best is not None
    assert run.history.best.genome["width"] <= 32


def test_a_constraint_that_nothing_keeps_does_not_end_the_run() -> None:
    impossible = (Constraint.parse("width<=3"),)
    run = simulate(ruled("random", constraints=impossible, known=True), births=8)
    assert len(run.candidates) in (1, 8)
    assert not run.history.pending


def test_a_strategy_with_budgets_of_its_own_is_refused() -> None:
    class Own(Strategy):
        def propose(self, history: object, rng: object) -> Proposal:
            return Proposal(SPACE.default(), "own", budget=0.5)

        def survivors(self, history: object) -> list[int]:
            return []

    with pytest.raises(ValueError, match="of its own: declare own_trials = True"):
        simulate(StrategyWithRules(inner=Own(), settings=RunSettings(fidelity=FIDELITY)))
