"""Further seeds where genomes have rungs: what a new genome costs, and what those that did not go on tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evo_tune import Float, SearchSpace
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.genome.values import genome_key
from evo_tune.genome.view import trials_by_genome
from evo_tune.plugins.find import make_strategy
from evo_tune.rules import extra_seeds
from evo_tune.rules.extra_seeds import SeedGains
from evo_tune.rules.promotions import Rungs
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Simulation

SPACE = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
RUNGS = (1 / 3, 1.0)
FIDELITY = ",".join(map(str, RUNGS))


def run(noise: float, seed: int, name: str = "saea", own_seeds: bool = False, slots: int = 1) -> Simulation:
    """Return a run with rungs and further seeds by worth, on a bowl with so much noise, early results being honest."""

    def evaluate(candidate: Candidate) -> Outcome:
        luck = np.random.default_rng([candidate.seed, *genome_key(candidate.genome).encode()]).normal()
        loss = float(((SPACE.encode(candidate.genome) - 0.3) ** 2).sum())
        return Outcome("ok", {"loss": loss + noise * luck + 1.0 - candidate.budget})

    settings = RunSettings(fidelity=FIDELITY, seeds_per_trial="auto", seeds="own" if own_seeds else "shared")
    strategy = StrategyWithRules(inner=make_strategy(name, {"population": 8}), settings=settings)
    return Simulation(strategy, SPACE, OBJECTIVES[:1], evaluate, births=26, seed=seed, slots=slots).run()


def further(runs: list[Simulation]) -> int:
    return sum(one.extra_seed > 0 for one in [one for each in runs for one in each.candidates])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saea", "ga"])
def test_genomes_that_were_trained_in_full_get_further_whole_trainings_where_seeds_differ(name: str) -> None:
    runs = [run(0.2, seed, name) for seed in range(3)]
    assert further(runs) >= 4
    assert max(further([run(0.0, seed, name)]) for seed in range(2)) <= 1
    for each in runs:
        of_what_ended(each)


def of_what_ended(each: Simulation) -> None:
    """Check that further seeds are whole trainings of genomes that were trained in full."""
    full: set[str] = set()
    for trial in each.history.trials:
        if trial.candidate.extra_seed:
            assert trial.candidate.budget == 1.0
            assert genome_key(trial.genome) in full
        elif trial.candidate.budget == 1.0:
            full.add(genome_key(trial.genome))


def test_whoever_did_not_go_on_gets_no_further_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra_seeds, "PRICE", 0.0)  # a new genome is worth nothing
    runs = [run(0.1, seed, "random") for seed in range(6)]
    assert further(runs) > 30
    for each in runs:
        of_what_ended(each)


def test_a_run_weighs_by_what_its_genomes_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cost in (0.01, 100.0):
        monkeypatch.setattr(Rungs, "mean_genome_cost", lambda self, cost=cost: cost)
        found.append(further([run(0.2, 0)]))
    assert found[0] == 0
    assert found[1] > 10


@pytest.mark.parametrize("own", [True, False])
def test_a_run_with_seeds_of_its_genomes_own_takes_none_for_shared(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    plain = extra_seeds.fit_seed_model
    monkeypatch.setattr(extra_seeds, "fit_seed_model", lambda given: told.append(given.shared) or plain(given))
    run(0.2, 0, own_seeds=own)
    assert set(told) == {not own}


@pytest.mark.slow
def test_those_that_did_not_go_on_are_known_to_be_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or genomes elsewhere would seem as good as those that were chosen to go on, and no seed be worth it."""
    told = further([run(0.2, seed) for seed in range(16)])
    monkeypatch.setattr(extra_seeds, "MAX_UNPROMOTED", 0)
    assert further([run(0.2, seed) for seed in range(16)]) < 0.7 * told


def test_nothing_is_expected_of_those_that_did_not_go_on() -> None:
    each = run(0.2, 0)
    doubt = SeedGains(SPACE, 4)
    for trial in each.history.trials:
        doubt.update(trial, each.history.proposed_units[trial.id])
    full = {key for key, entry in trials_by_genome(each.history).items() if entry.losses(1.0) is not None}
    assert doubt.predict_losses([]).keys() == full
    assert len(full) < 26, "or this shows nothing"


def test_whoever_goes_on_just_now_is_not_taken_for_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    each, known = run(0.2, 0), list[int]()
    plain = extra_seeds.SeedModel
    monkeypatch.setattr(
        extra_seeds, "SeedModel", lambda given, logs: known.append(len(given.points)) or plain(given, logs)
    )
    doubt = SeedGains(SPACE, 4)
    for trial in each.history.trials:
        doubt.update(trial, each.history.proposed_units[trial.id])
    left = [entry.latest_trial for entry in trials_by_genome(each.history).values() if entry.losses(1.0) is None]
    out = [replace(left[0].candidate, budget=1.0, resumes=left[0].id)]
    for told in ([], out, out, []):
        doubt.predict_losses(told)
        doubt.best_extra_seed(told)
    assert 0 < len(left) <= extra_seeds.MAX_UNPROMOTED, "or this shows nothing"
    assert known == [known[0], known[0] - 1, known[0]]


def test_a_run_tells_who_goes_on_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    plain = SeedGains.predict_losses
    monkeypatch.setattr(SeedGains, "predict_losses", lambda self, out: told.append(len(out)) or plain(self, out))
    run(0.2, 0, slots=4)
    assert max(told) == 3


@pytest.mark.parametrize("cost", [0.25, 1.0, 4.0])
def test_the_dearer_a_new_genome_is_the_sooner_a_further_seed_is_worth_it(cost: float) -> None:
    each = run(0.2, 1, "random")
    doubts: list[SeedGains] = []

    def due(price: float) -> list[bool]:
        return [doubt.best_extra_seed([], price) is not None for doubt in doubts]

    for count in range(10, len(each.history.trials), 3):
        doubts.append(SeedGains(SPACE, 4))
        for trial in each.history.trials[:count]:
            doubts[-1].update(trial, each.history.proposed_units[trial.id])
    assert sum(due(cost / 2)) <= sum(due(cost)) <= sum(due(2 * cost))
    assert sum(due(0.01)) < sum(due(100.0))


def test_what_genomes_cost_is_what_they_took_on_the_average() -> None:
    each = run(0.0, 2)
    rungs = Rungs(RUNGS, 1)
    assert rungs.mean_genome_cost() == 1.0
    for entry in trials_by_genome(each.history).values():
        rungs.update(entry)
    reached = [entry.latest_trial.candidate.budget for entry in trials_by_genome(each.history).values()]
    assert rungs.mean_genome_cost() == pytest.approx(np.mean(reached))
    assert Rungs((1.0,), 1).mean_genome_cost() == 1.0


@pytest.mark.parametrize(("places", "ties"), [(1, 6), (9, 1)])
def test_one_tie_ends_the_extra_seeds_only_where_it_is_no_chance(places: int, ties: int) -> None:
    """An accuracy in tenths ties by chance; a loss of nine places does not."""
    rng, doubt = np.random.default_rng(0), SeedGains(SPACE, 4)

    def take(genome: dict[str, float], loss: float, extra_seed: int = 0) -> None:
        candidate = Candidate(0, 0, 0, 0, genome, "test", extra_seed=extra_seed)
        doubt.update(Trial(candidate, Outcome("ok", {}), 0, (loss,)), SPACE.encode(genome))

    genomes = [{"x": float(x), "y": float(y)} for x, y in rng.random((12, 2))]
    losses = [round(float(loss), places) for loss in rng.random(12)]
    for genome, loss in zip(genomes, losses, strict=True):
        take(genome, loss)
    for tie in range(ties):
        assert doubt.predict_losses([]), "a model weighs extra seeds"
        take(genomes[tie], losses[tie], 1)
    assert not doubt.predict_losses([])
    take(genomes[-1], losses[-1] + 0.5, 1)
    assert doubt.predict_losses([]), "it is not for good"
