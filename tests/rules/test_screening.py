"""The rule for runs with patches: what it proposes, when, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from evo_tune.genome.genes import Float, Gene
from evo_tune.genome.history import RunHistory
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.switches import SWITCH
from evo_tune.genome.trial import DEFAULT, Candidate, Minimize, Outcome, Proposal
from evo_tune.genome.values import Genome
from evo_tune.plugins.find import make_strategy
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.rules.screening import (
    FIRST,
    IMPROVEMENT,
    SCREENING,
    SIMPLIFIED,
    TURNS,
    failing_switches,
    next_screening,
    suspected_switches,
    without_failing,
)
from evo_tune.settings import RunSettings

SWITCHES = [f"p{number}" for number in range(6)]

GAINS = np.array([0.1, 0.08, 0.06, 0.0, 0.0, 0.0])


def drop_excluded(genome: Genome) -> Genome:
    """Two switches exclude each other, as patches that do not apply together."""
    return {**genome, "p5": False} if genome["p4"] else genome


def make_space(repair: Callable[[Genome], Genome] | None = None) -> SearchSpace:
    genes: dict[str, Gene] = dict.fromkeys(SWITCHES, SWITCH)
    return SearchSpace(repair, None, lr=Float(1e-4, 1e-2, log=True, default=1e-3), **genes)


def loss_of(genome: Genome, rng: np.random.Generator) -> float:
    on = np.array([genome[name] is True for name in SWITCHES], dtype=float)
    return float(1.0 - GAINS @ on + 0.1 * (np.log10(genome["lr"]) + 3.0) ** 2 + rng.normal(0.0, 0.005))


def simulate(
    count: int, seed: int = 0, settings: RunSettings | None = None, space: SearchSpace | None = None
) -> tuple[RunHistory, list[Proposal]]:
    """Return the history and the proposals of a run, one training at a time."""
    strategy = StrategyWithRules(inner=make_strategy("random", {}), settings=settings or RunSettings())
    history = RunHistory(space or make_space(), [Minimize("loss")])
    rng, proposals = np.random.default_rng(seed), []
    for id in range(count):
        proposal = strategy.propose(history, np.random.default_rng([seed, id]), SWITCHES) if id else None
        proposal = proposal or Proposal(history.space.default(), DEFAULT, budget=strategy.settings.rungs[0])
        proposals.append(proposal)
        history.add_candidate(Candidate(id, 0, 0, id, **vars(proposal)))
        loss = loss_of(proposal.genome, rng)
        history.tell(id, Outcome("ok", {"loss": loss}, curve=((proposal.budget, {"loss": loss}),)))
    return history, proposals


# Number of trainings after which a simplified genome is due.
BEFORE_SIMPLIFIED = FIRST + 5 * len(TURNS) + TURNS.index(SIMPLIFIED)


def test_the_kinds_take_turns_with_the_strategy() -> None:
    kinds = [proposal.operator for proposal in simulate(FIRST + 5 * len(TURNS))[1]][FIRST:]
    assert {*kinds[2::4]} == {"random"}
    assert {*kinds[0::4]} == {IMPROVEMENT}
    assert SCREENING in kinds[1::4]
    assert {*kinds[1::4]} <= {SCREENING, "random"}  # random once all variants were trained
    assert {*kinds[3::4]} <= {SIMPLIFIED, IMPROVEMENT}  # until a simple genome may be as good


def test_improvements_use_the_switches_that_help() -> None:
    for seed in range(2):
        history, proposals = simulate(FIRST + 16, seed=seed)
        best = history.ranking[0].genome
        assert [best[name] for name in ("p0", "p1")] == [True, True]
        assert abs(np.log10(best["lr"]) + 3.0) < 0.5
        rates = {proposal.genome["lr"] for proposal in proposals if proposal.operator == IMPROVEMENT}
        assert len(rates) > 1


def next_after(genomes: list[Genome], losses: np.ndarray) -> Proposal:
    """Return the proposal of the rule after some trainings."""
    history = RunHistory(make_space(), [Minimize("loss")])
    for id, (genome, loss) in enumerate(zip(genomes, losses, strict=True)):
        history.add_candidate(Candidate(id, 0, 0, id, **vars(Proposal(genome, DEFAULT))))
        history.tell(id, Outcome("ok", {"loss": float(loss)}))
    proposal = next_screening(history, SWITCHES, 1.0, np.random.default_rng(0))
    assert proposal is not None
    return proposal


def test_a_switch_that_is_only_noise_is_dropped() -> None:
    """All genomes so far have it on."""
    rng = np.random.default_rng(0)
    on = np.column_stack([np.ones(BEFORE_SIMPLIFIED), rng.random((BEFORE_SIMPLIFIED, 5)) < 0.5])
    genomes: list[Genome] = [{**dict(zip(SWITCHES, map(bool, row), strict=True)), "lr": 1e-3} for row in on]
    proposal = next_after(genomes, 1.0 - 0.1 * on[:, 1] + rng.normal(0.0, 0.002, len(on)))
    assert proposal.operator == SIMPLIFIED
    assert [proposal.genome[name] for name in SWITCHES] == [False, True, False, False, False, False]


def test_a_switch_that_helped_elsewhere_is_added() -> None:
    """It was on with a bad learning rate only, and is off in all good genomes."""
    rng = np.random.default_rng(0)
    on = (rng.random((BEFORE_SIMPLIFIED, 6)) < 0.5) * [1, 1, 0, 0, 0, 0]
    rates = np.where(on[:, 0] > 0.0, 1e-4, 1e-3)
    genomes: list[Genome] = [
        {**dict(zip(SWITCHES, map(bool, row), strict=True)), "lr": float(rate)}
        for row, rate in zip(on, rates, strict=True)
    ]
    for number in range(6):  # without it, at the same learning rate
        genomes[number] |= {"p0": False, "lr": 1e-4}
    losses = [1.0 - 0.3 * genome["p0"] - 0.1 * genome["p1"] + 0.5 * (genome["lr"] < 5e-4) for genome in genomes]
    proposal = next_after(genomes, np.array(losses) + rng.normal(0.0, 0.002, len(on)))
    assert proposal.operator == SIMPLIFIED
    assert proposal.genome == {"p0": True, "p1": True, "p2": False, "p3": False, "p4": False, "p5": False, "lr": 1e-3}


def test_no_genome_is_trained_twice_and_all_are_valid() -> None:
    space = make_space(drop_excluded)
    history, proposals = simulate(36, space=space)
    keys = [tuple(proposal.genome.items()) for proposal in proposals]
    assert len({*keys}) == len(keys)
    assert all(space.snap(space.encode(proposal.genome)) == proposal.genome for proposal in proposals)
    assert not any(genome.genome["p4"] and genome.genome["p5"] for genome in history.ranking)


def test_it_is_a_function_of_the_history() -> None:
    for count in (FIRST, FIRST + 1):
        history, _ = simulate(count)
        again = [next_screening(history, SWITCHES, 1.0, np.random.default_rng(7)) for _ in range(2)]
        assert again[0] is not None
        assert again[0] == again[1]


@pytest.mark.parametrize("case", ["no switches", "two objectives", "failures only", "equal losses"])
def test_without_switches_or_results_the_strategy_proposes(case: str) -> None:
    metrics = ["loss", "seconds"] if case == "two objectives" else ["loss"]
    history = RunHistory(make_space(), [Minimize(metric) for metric in metrics])
    for id in range(FIRST + len(TURNS)):
        genome = history.space.sample(np.random.default_rng(id))
        history.add_candidate(Candidate(id, 0, 0, id, **vars(Proposal(genome, DEFAULT))))
        loss = 1.0 if case == "equal losses" else float(id)
        failed = case == "failures only"
        history.tell(id, Outcome("failed", {}) if failed else Outcome("ok", {"loss": loss, "seconds": 1.0}))
    switches: list[str] = [] if case == "no switches" else SWITCHES
    assert next_screening(history, switches, 1.0, np.random.default_rng(0)) is None


def test_a_switch_that_always_fails_is_screened_no_more() -> None:
    strategy = StrategyWithRules(inner=make_strategy("random", {}), settings=RunSettings())
    history, rng, later = RunHistory(make_space(), [Minimize("loss")]), np.random.default_rng(0), []
    for id in range(60):
        default = Proposal(history.space.default(), DEFAULT)
        proposal = strategy.propose(history, np.random.default_rng(id), SWITCHES) if id else default
        assert proposal is not None
        history.add_candidate(Candidate(id, 0, 0, id, **vars(proposal)))
        failed = proposal.genome["p1"] is True
        history.tell(id, Outcome("failed", {}) if failed else Outcome("ok", {"loss": loss_of(proposal.genome, rng)}))
        if id > 20 and proposal.operator in (IMPROVEMENT, SCREENING, SIMPLIFIED):
            later.append(proposal.genome)
    assert len(history.failed) <= 10
    assert len(later) > 20
    assert not any(genome["p1"] for genome in later)
    assert all(any(genome[name] for genome in later) for name in ("p0", "p2"))


def test_a_run_whose_only_patch_fails_goes_on() -> None:
    history = RunHistory(make_space(), [Minimize("loss")])
    for id in range(FIRST + 2):
        genome: Genome = {name: id < 3 and name == "p0" for name in SWITCHES} | {"lr": 1e-3 * (1 + id / 30)}
        history.add_candidate(Candidate(id, 0, 0, id, **vars(Proposal(genome, DEFAULT))))
        history.tell(id, Outcome("failed", {}) if genome["p0"] else Outcome("ok", {"loss": 1.0 + id}))
    assert next_screening(history, ["p0"], 1.0, np.random.default_rng(0)) is None


def test_the_strategy_proposes_no_switch_that_has_only_failed() -> None:
    strategy = StrategyWithRules(inner=make_strategy("random", {}), settings=RunSettings())
    history = RunHistory(make_space(), [Minimize("loss")])
    genomes: list[Genome] = [{name: name == "p0" for name in SWITCHES} | {"lr": lr} for lr in (1e-3, 2e-3)]
    for id, genome in enumerate(genomes):
        history.add_candidate(Candidate(id, 0, 0, id, **vars(Proposal(genome, DEFAULT))))
        history.tell(id, Outcome("failed", {}))
    for settings in (RunSettings(), RunSettings(seeds_per_trial=2)):
        ruled = replace(strategy, settings=settings)
        proposals = [ruled.propose(history, np.random.default_rng(seed), SWITCHES) for seed in range(40)]
        assert not any(proposal is not None and proposal.genome["p0"] for proposal in proposals)


def test_a_quarter_of_the_first_genomes_have_a_switch_on() -> None:
    """Half of them fail if it always fails, with one that is on half of the time."""
    genomes = [make_space().sample_prior(np.random.default_rng(seed)) for seed in range(300)]
    assert 0.15 < np.mean([[genome[name] is True for name in SWITCHES] for genome in genomes]) < 0.35


def test_a_failure_accuses_the_only_switch_that_never_succeeded() -> None:
    history = RunHistory(make_space(), [Minimize("loss")])

    def train(number: int, *on: str) -> None:
        genome: Genome = {name: name in on for name in SWITCHES} | {"lr": 1e-3 * (1 + number / 10)}
        history.add_candidate(Candidate(number, 0, 0, number, **vars(Proposal(genome, DEFAULT))))
        failed = Outcome("failed", {})
        history.tell(number, failed if "p1" in on else Outcome("ok", {"loss": 1.0 + number}))

    for number in range(3):
        train(number, "p1", "p2")
    assert failing_switches(history, SWITCHES) == set()  # either may be the reason
    train(3, "p2", "p3")
    assert failing_switches(history, SWITCHES) == {"p1"}
    genome = dict.fromkeys(SWITCHES[:3], True) | dict.fromkeys(SWITCHES[3:], False) | {"lr": 1e-3}
    assert suspected_switches(history, SWITCHES) == {"p1"}
    changed = without_failing(Proposal(genome, "random"), history, SWITCHES, 1.0)
    assert changed.genome == {**genome, "p1": False}
    assert without_failing(replace(changed, resumes=0), history, SWITCHES, 1.0).genome == changed.genome
    resumed = Proposal(genome, "promotion", resumes=0)
    assert without_failing(resumed, history, SWITCHES, 1.0) == resumed


def test_a_genome_has_at_most_one_suspected_switch() -> None:
    """After a failure of many switches, the next ones tell which it was."""
    history = RunHistory(make_space(), [Minimize("loss")])
    for number in range(FIRST):
        genome: Genome = dict.fromkeys(SWITCHES, number == 1) | {"lr": 1e-3 * (1 + number / 10)}
        history.add_candidate(Candidate(number, 0, 0, number, **vars(Proposal(genome, DEFAULT))))
        history.tell(number, Outcome("failed", {}) if number == 1 else Outcome("ok", {"loss": 1.0}))
    history.add_candidate(
        Candidate(FIRST, 0, 0, FIRST, **vars(Proposal(history.space.default() | {"lr": 2e-3}, DEFAULT)))
    )
    history.tell(FIRST, Outcome("ok", {"loss": 1.1}))
    assert suspected_switches(history, SWITCHES) == {*SWITCHES}
    proposals = [next_screening(history, SWITCHES, 1.0, np.random.default_rng(seed)) for seed in range(8)]
    counts = {sum(proposal.genome[name] is True for name in SWITCHES) for proposal in proposals if proposal is not None}
    assert counts
    assert counts <= {0, 1}


def test_new_genomes_begin_at_the_first_rung() -> None:
    settings = RunSettings(fidelity="0.25,1", prune=True)
    proposals = simulate(60, settings=settings)[1]
    screened = [proposal for proposal in proposals if proposal.operator in (SCREENING, SIMPLIFIED)]
    assert screened
    assert {proposal.budget for proposal in screened} == {0.25}
