"""Models of saea: scores in place of losses, and predictions from partial trainings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.genome.forest import Forest
from evo_tune.genome.genes import Choice, Float
from evo_tune.genome.kernel import FeatureLayout
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Constraint, Outcome
from evo_tune.genome.values import Genome
from evo_tune.plugins.strategy import GenomeResults
from evo_tune.rules.ruled import StrategyWithRules
from evo_tune.settings import RunSettings
from evo_tune.strategies import saea
from evo_tune.strategies._models import (
    MAX_FIT_POINTS,
    PAIRS,
    Acquisition,
    Factor,
    FidelityModel,
    _choose_results,
    loss_scores,
    normal_scores,
)
from evo_tune.strategies.saea import SAEA
from tests.rules.test_ruled import FIDELITY, LOSS, RUNGS, SPACE, honest, ruled, trained
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Simulation

SQUARE = SearchSpace(x=Float(0, 1), y=Float(0, 1))


def spaced(losses: list[float], failures: int = 0) -> np.ndarray:
    """Return the scores of results in the order of their losses, failures behind them."""
    places = np.append(np.arange(1.0, len(losses) + 1), np.full(failures, len(losses) + (failures + 1) / 2))
    known = np.append(np.sort(losses), np.full(failures, np.nan))
    return loss_scores(places, known)


WHOLE = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=40)


@given(WHOLE, st.integers(0, 10))
def test_spaced_scores_keep_the_order_and_have_variance_one(losses: list[float], failures: int) -> None:
    scores = spaced(losses, failures)
    assert np.all(np.diff(scores) <= 1e-12)
    assert np.all(scores[len(losses) :] == scores[-1])
    if len(set(losses)) > 2 and np.median(losses) > min(losses):
        assert scores.mean() == pytest.approx(0.0, abs=1e-9)
        assert scores.std() == pytest.approx(1.0)


@given(WHOLE, st.floats(0.01, 100.0), st.floats(-100.0, 100.0))
def test_neither_scale_nor_offset_of_a_loss_matters(losses: list[float], scale: float, offset: float) -> None:
    assert np.allclose(spaced(losses), spaced([scale * loss + offset for loss in losses]), atol=1e-6)


def test_scores_of_the_better_half_are_as_far_apart_as_their_losses() -> None:
    scores = spaced([1.0, 2.0, 4.0, 7.0, 11.0, 12.0, 100.0, 1e9, 1e10], 1)
    steps = np.diff(scores[:5])
    assert np.allclose(steps / steps[0], [1.0, 2.0, 3.0, 4.0])
    assert scores[7] - scores[8] == pytest.approx(np.log(10.0) * (scores[0] - scores[4]), rel=1e-3)


@pytest.mark.parametrize("losses", [[-1.5e308, 0.0, 1.5e308, 1.6e308, 1.7e308], [0.0, 5e-324, 1e-323, 1.0, 2.0]])
def test_extreme_losses_get_finite_ordered_scores(losses: list[float]) -> None:
    scores = spaced(losses)
    assert np.isfinite(scores).all()
    assert np.all(np.diff(scores) <= 0.0)


def test_equal_or_unknown_losses_keep_their_normal_scores() -> None:
    assert np.array_equal(spaced([3.0] * 6), normal_scores(np.arange(1.0, 7.0), 6))
    places, unknown = np.arange(1.0, 5.0), np.full(4, np.nan)
    assert np.array_equal(loss_scores(places, unknown), normal_scores(places, 4))


def births(power: float, scale: float = 1.0, rules: RunSettings | None = None, **options: Any) -> list[Genome]:
    """Return the births of a run on a bowl whose losses are raised to a power, which changes no rank."""

    def evaluate(candidate: Candidate) -> Outcome:
        loss = float(((SQUARE.encode(candidate.genome) - 0.3) ** 2).sum())
        return Outcome("ok", {"loss": scale * loss**power})

    strategy = SAEA(**options)
    ruled = strategy if rules is None else StrategyWithRules(inner=strategy, settings=rules)
    run = Simulation(ruled, SQUARE, OBJECTIVES[:1], evaluate, births=18).run()
    return [one.genome for one in run.candidates]


def test_the_spacing_of_losses_matters_to_the_process_only() -> None:
    assert births(1.0, gp_only=0.0) == births(3.0, gp_only=0.0)
    assert births(1.0, gp_only=1.0) != births(3.0, gp_only=1.0)
    assert births(1.0) == births(1.0, scale=2.0**40)


@pytest.mark.parametrize("rules", [None, RunSettings(fidelity="1/9,1/3,1")], ids=["plain", "rungs"])
@pytest.mark.parametrize(("smooth", "asked"), [(1.0, False), (0.0, True)])
def test_alone_the_process_predicts_without_the_forest(
    rules: RunSettings | None, smooth: float, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown, fit = [], Forest.fit
    monkeypatch.setattr(Forest, "fit", lambda *given: grown.append(1) or fit(*given))
    births(1.0, rules=rules, gp_only=smooth)
    assert bool(grown) is asked


@pytest.mark.parametrize(
    "rules", [RunSettings(seeds_per_trial=2), RunSettings(prune=True)], ids=["seeds_per_trial", "prune"]
)
def test_the_spacing_of_losses_matters_under_extra_seeds_and_pruning(rules: RunSettings) -> None:
    assert births(1.0, rules=rules, gp_only=1.0) != births(3.0, rules=rules, gp_only=1.0)
    assert births(1.0, rules=rules, gp_only=0.0) == births(3.0, rules=rules, gp_only=0.0)


@pytest.mark.slow
def test_it_comes_nearer_to_the_lowest_point_of_a_smooth_surface() -> None:
    space = SearchSpace(**{f"x{place}": Float(0, 1) for place in range(5)})

    def best(smooth: float, seed: int) -> float:
        def evaluate(candidate: Candidate) -> Outcome:
            return Outcome("ok", {"loss": float(((space.encode(candidate.genome) - 0.3) ** 2).sum())})

        run = Simulation(SAEA(gp_only=smooth), space, OBJECTIVES[:1], evaluate, births=40, seed=seed).run()
        return float((run.history.best.losses or (1.0,))[0])  # type: ignore[union-attr]

    with_it, without = ([best(smooth, seed) for seed in range(4)] for smooth in (0.5, 0.0))
    assert np.median(with_it) < 0.5 * np.median(without)


LAYOUT = FeatureLayout.of(SQUARE)


def seen(count: int, ended: int, likeness: float, smooth: bool = True) -> tuple[GenomeResults, np.ndarray]:
    """Return a run of which the first genomes were trained in full, and the losses of all of them in the end."""
    rng = np.random.default_rng(0)
    units = rng.random((count, 2))
    losses = units.sum(axis=1) if smooth else rng.random(count)
    early = likeness * losses + (1.0 - likeness) * rng.random(count)
    places = np.full((count, 3), np.nan)
    places[:, 0] = early.argsort().argsort() + 1.0
    places[:ended, 2] = (losses[:ended].argsort().argsort() + 1.0) * count / ended
    return GenomeResults(RUNGS, places, np.arange(count), list(units)), losses


@pytest.mark.parametrize("count", [20, 60, 400])
def test_it_learns_from_a_bounded_number_of_results_with_pairs_among_them(count: int) -> None:
    given, _ = seen(count, count // 2, 1.0)
    used = _choose_results(given.places)
    assert used.sum() == min(MAX_FIT_POINTS, count + count // 2)
    assert not np.isnan(given.places[used]).any()
    best = np.argsort(given.places[: count // 2, 2])[:PAIRS]
    assert used[best][:, [0, 2]].all()


def test_predictions_follow_partial_results_that_were_right() -> None:
    right, losses = seen(40, 14, 1.0)
    waiting = np.arange(14, 40)
    learned = FidelityModel.of(right, LAYOUT)
    assert learned.trust(1 / 9) > 0.8
    assert np.corrcoef(learned.worth(waiting), -losses[waiting])[0, 1] > 0.95
    wrong = FidelityModel.of(seen(40, 14, 0.0)[0], LAYOUT)
    assert wrong.trust(1 / 9) < learned.trust(1 / 9) - 0.1


def test_results_outside_the_fit_update_the_prediction() -> None:
    given, _ = seen(400, 40, 1.0, smooth=False)  # genes tell nothing
    left = int(np.flatnonzero(~_choose_results(given.places)[:, 0] & np.isnan(given.places[:, 2]))[0])
    learned, worth = FidelityModel.of(given, LAYOUT), []
    for place in (1.0, 400.0):
        learned.results.places[left, 0] = place  # after it has learned: only the genome's own
        worth.append(float(learned.worth(np.array([left]))[0]))
    assert worth[0] > worth[1] + 1.0


def test_of_equal_predictions_the_less_certain_one_is_worth_more() -> None:
    learned = FidelityModel.of(seen(30, 10, 1.0, smooth=False)[0], LAYOUT)
    mean, variance = learned._predict(np.arange(30))
    assert np.allclose(learned.worth(np.arange(30)) - mean, np.sqrt(variance))
    assert variance[10:].mean() > variance[:10].mean()


def test_a_gene_that_is_not_active_does_not_change_what_is_promoted() -> None:
    space = SearchSpace(kind=Choice(("a", "b")), x=Float(0, 1), y=Float(0, 1, when={"kind": "a"}))
    rng = np.random.default_rng(0)
    units = rng.random((24, 3))
    units[-2:] = [[0.75, 0.4, 0.1], [0.75, 0.4, 0.9]]  # y is not active where the kind is b
    places = np.full((24, 3), np.nan)
    places[:, 0], places[:8, 2] = np.arange(24.0) + 1.0, np.arange(8.0) * 3.0 + 1.0
    places[-2:, 0] = 12.0
    model = FidelityModel.of(GenomeResults(RUNGS, places, np.arange(24), list(units)), FeatureLayout.of(space))
    first, second = model.worth(np.array([22, 23]))
    assert first == pytest.approx(second)


def test_a_run_with_rungs_has_the_acquisition_of_a_run_without(monkeypatch: pytest.MonkeyPatch) -> None:
    factors: list[list[str]] = []

    def recorded(parts: list[Factor], *rest: Any) -> Acquisition:
        factors.append(sorted(type(part).__name__ for part in parts))
        return Acquisition(parts, *rest)

    monkeypatch.setattr(saea, "Acquisition", recorded)
    evaluate = trained(honest, fail=0.2)
    for rungs in ("1", FIDELITY):
        strategy = ruled("saea", RunSettings(fidelity=rungs), [Constraint.parse("cost<=1.5")])
        run = Simulation(strategy, SPACE, objectives=LOSS, evaluate=evaluate, births=20).run()
        assert run.history.failed
        assert factors[-1] == ["ExpectedImprovement", "Feasibility", "Feasibility"]  # the constraint, success


def test_proposals_approach_the_best_partial_results() -> None:
    strategy = ruled("saea", RunSettings(fidelity=FIDELITY))
    run = Simulation(strategy, SPACE, objectives=LOSS, evaluate=trained(honest), births=30).run()
    early = [trial.losses[0] for trial in run.history.trials if trial.candidate.fresh and trial.losses]
    assert np.mean(early[15:]) < np.mean(early[:6]) - 0.2
