"""Surrogate-assisted evolution: it needs fewer trainings, keeps away from failures, and stays cheap."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import History, RunHistory
from evo_tune.genome.kernel import category_counts, encode_features
from evo_tune.genome.process import GaussianProcess
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Minimize, Outcome
from evo_tune.genome.values import Genome, genome_key
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies._deap import Individual
from evo_tune.strategies._models import MAX_FIT_POINTS, ExpectedImprovement, Models, loss_scores, normal_scores
from evo_tune.strategies.ga import GA
from evo_tune.strategies.nsga2 import NSGA2
from evo_tune.strategies.random import Random
from evo_tune.strategies.saea import SAEA, _ranks
from tests.strategies.bowl import BOWL, best_of
from tests.strategies.cases import OBJECTIVES, SPACES, losses, some
from tests.strategies.simulate import Simulation, birth_rng


def told(space: SearchSpace, count: int, seed: int = 0) -> History:
    """Return a history of random trials on the landscape of `losses`."""
    rng = np.random.default_rng(seed)
    history = RunHistory(space, OBJECTIVES[:1])
    for id in range(count):
        history.add_candidate(Candidate(id, id // 12, 0, id, space.snap(rng.random(len(space.genes))), "random"))
        history.tell(id, losses(space)(history.pending[0]))
    return history


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_process_alone_compares_with_its_best_prediction(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lucky result among noisy ones does not count in full; a result without noise does."""
    best: list[tuple[float, float]] = []

    def improvement(models: Models, layout: Any, score: float, earlier: Any) -> ExpectedImprovement:
        best.append((score, float((models.process.predict(models.process.points)[0]).max())))
        return ExpectedImprovement(models, layout, score, earlier)

    monkeypatch.setattr("evo_tune.strategies._models.ExpectedImprovement", improvement)
    space, rng = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0)), np.random.default_rng(0)
    history = RunHistory(space, OBJECTIVES[:1])
    for id, units in enumerate(rng.random((40, 2))):
        history.add_candidate(Candidate(id, id // 12, 0, id, space.snap(units), "random"))
        loss = float(((units - 0.4) ** 2).sum() + noise * rng.normal())
        history.tell(id, Outcome("ok", {"loss": loss}))
    SAEA(gp_only=1.0).propose(history, birth_rng(0, 40))
    scores = loss_scores(np.arange(1.0, 41.0), history.bare_losses()[:, 0])
    assert best == [(pytest.approx(best[0][1]), best[0][1])]
    assert (scores.max() - best[0][0] > 0.5) == (noise > 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("slots", some([1, 4], 4))
def test_it_needs_fewer_trainings_than_its_own_algorithm_without_a_model(slots: int) -> None:
    screened, bred, drawn = (
        [best_of(make(), seed, slots, births=40) for seed in range(3)] for make in (SAEA, GA, Random)
    )
    assert np.median(screened) < 0.5 * np.median(bred)
    assert np.median(screened) < 0.3 * np.median(drawn)


def test_only_the_order_of_losses_matters() -> None:
    def run(scale: float, offset: float, power: float) -> list[Genome]:
        def evaluate(candidate: Candidate) -> Outcome:
            loss = losses(SPACES["mixed"])(candidate).metrics["loss"]
            return Outcome("ok", {"loss": offset + scale * loss**power})

        return [
            c.genome
            for c in Simulation(SAEA(gp_only=0.0), SPACES["mixed"], OBJECTIVES[:1], evaluate, births=25)
            .run()
            .candidates
        ]

    assert run(1.0, 0.0, 1.0) == run(1e9, -5.0, 3.0)


@pytest.mark.parametrize(
    ("genes", "births", "most"),
    [
        (3, 25, 1e-6),
        pytest.param(8, 50, 1e-4, marks=pytest.mark.slow),
        pytest.param(20, 50, 0.01, marks=pytest.mark.slow),
    ],
)
def test_the_lowest_point_of_a_smooth_surface_is_found_precisely(genes: int, births: int, most: float) -> None:
    """The loss is the mean squared distance from a point; that of a random genome is about 1 / 6."""
    space, found = SearchSpace(**{f"x{place}": Float(0, 1) for place in range(genes)}), []
    for seed in range(3):
        best = birth_rng(seed, 999).random(genes)

        def evaluate(candidate: Candidate, best: np.ndarray = best) -> Outcome:
            return Outcome("ok", {"loss": float(((space.encode(candidate.genome) - best) ** 2).mean())})

        run = Simulation(SAEA(), space, OBJECTIVES[:1], evaluate, births=births, seed=seed).run()
        assert run.history.best is not None
        found.append((run.history.best.losses or (1.0,))[0])
    assert np.median(found) < most, found


@pytest.mark.slow
def test_failures_inform_where_not_to_go() -> None:
    """The best is at the edge of where trainings fail, so an improvement is always likelier beyond it than inside."""
    space = SearchSpace(x=Float(0, 1), y=Float(0, 1), z=Float(0, 1))

    def evaluate(candidate: Candidate) -> Outcome:
        units = space.encode(candidate.genome)
        if units[0] + units[1] > 1.2:
            return Outcome("out_of_memory", error="too large")
        return Outcome("ok", {"loss": float(-units[0] - units[1] + (units[2] - 0.5) ** 2)})

    failed, best = [], []
    for seed in range(8):
        history = Simulation(SAEA(), space, OBJECTIVES[:1], evaluate, births=60, seed=seed, slots=2).run().history
        failed.append(np.mean([not trial.ok for trial in history.trials[20:]]))
        best.append((history.best.losses or (0.0,))[0])  # type: ignore[union-attr]
    assert np.mean(failed) < 0.35
    assert max(best) < -1.19


def fitted(history: History, monkeypatch: pytest.MonkeyPatch, smooth: float = 0.0) -> tuple[np.ndarray, ...]:
    """Return points, scores and pending points to which the models of a proposal are fitted."""
    given: list[tuple[np.ndarray, ...]] = []
    fit = Models.fit
    monkeypatch.setattr(Models, "fit", lambda *all: given.append(all[1:4]) or fit(*all))
    SAEA(gp_only=smooth)._acquisition(history, np.ones(1), [], None, birth_rng(0, 0))
    monkeypatch.undo()
    return given[0]


def with_some_out(count: int, out: int) -> History:
    history = told(SPACES["mixed"], count)
    for id in range(count, count + out):
        history.add_candidate(Candidate(id, 0, 0, count, SPACES["mixed"].sample(birth_rng(9, id)), "random"))
    return history


def test_pending_trials_take_no_place_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    points, scores, pending = fitted(with_some_out(200, 90), monkeypatch)
    assert len(points) == len(scores) == MAX_FIT_POINTS
    assert scores.max() == normal_scores(np.array([1.0]), 200)[0]
    assert pending.shape == (90, len(SPACES["mixed"].genes))


@pytest.mark.parametrize("count", [20, 200])
def test_a_smooth_proposal_learns_each_genomes_own_loss(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    history = with_some_out(count, 3)
    for one in history.pending[:2]:
        history.tell(one.id, Outcome("failed", error="no luck"))
    points, scores, _ = fitted(history, monkeypatch, smooth=1.0)
    sizes = category_counts(history.space)
    own = {tuple(encode_features(history.proposed_units[one.id], sizes)): one.losses for one in history.ranked()}
    middle = float(np.median([one.losses[0] for one in history.ranked() if one.losses]))
    better = [row for row in range(len(points)) if own[tuple(points[row])][0] < middle]  # type: ignore[index]
    losses = [own[tuple(points[row])][0] for row in better]  # type: ignore[index]
    places = _ranks(history.ranked_losses(), np.ones(1))
    plain = normal_scores(places, len(places))
    assert len(better) >= 10
    assert abs(np.corrcoef(scores[better], losses)[0, 1]) > 0.999999
    assert abs(np.corrcoef(plain[: len(better)], sorted(losses))[0, 1]) < 0.999


@pytest.mark.parametrize("alone", [True, False])
def test_a_promising_place_does_not_seem_worse_for_being_tried(alone: bool) -> None:
    rng = np.random.default_rng(0)
    points, pending = rng.random((30, 2)), np.full((4, 2), 0.5) + 0.02 * rng.random((4, 2))
    scores = -((points - 0.5) ** 2).sum(axis=1)
    scores = (scores - scores.mean()) / scores.std()
    models = [
        Models.fit(
            GaussianProcess.fit(points, scores, np.zeros(2)),
            points,
            scores,
            waiting,
            np.zeros(2),
            birth_rng(0, 0),
            alone,
        )
        for waiting in (points[:0], pending)
    ]
    (mean, deviation), (expected, surer) = (one.predict(pending) for one in models)
    assert np.all(expected > mean - 0.35)
    assert np.mean(surer) < np.mean(deviation)
    assert np.all(expected > scores.mean() + 0.5)


def test_in_a_long_run_models_learn_from_the_best_and_some_others(monkeypatch: pytest.MonkeyPatch) -> None:
    history = told(SPACES["one-float"], 1_000)
    points, scores, _ = fitted(history, monkeypatch)
    best = [history.proposed_units[trial.id][0] for trial in history.ranked()]
    assert points.shape == (MAX_FIT_POINTS, 1)
    assert points[: MAX_FIT_POINTS // 2, 0].tolist() == best[: MAX_FIT_POINTS // 2]
    assert np.all(np.diff(scores[: MAX_FIT_POINTS // 2]) < 0)
    assert np.median([best.index(u) for u in points[MAX_FIT_POINTS // 2 :, 0]]) > 300


@given(
    losses=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20),
    seed=st.integers(0, 99),
)
def test_dominating_trials_score_higher_for_any_weights(losses: list[tuple[int, ...]], seed: int) -> None:
    objectives = [Minimize(name) for name in "abc"]
    history = RunHistory(SPACES["one-int"], objectives)
    for id, row in enumerate(losses):
        history.add_candidate(Candidate(id, 0, 0, id, {"n": 1 + id}, "given"))
        history.tell(id, Outcome("ok", dict(zip("abc", map(float, row), strict=True))))
    ranked = history.ranked()
    scores = -_ranks(history.ranked_losses(), birth_rng(seed, 0).dirichlet(np.ones(3)))
    for one, score in zip(ranked, scores, strict=False):
        for other, other_score in zip(ranked, scores, strict=False):
            a, b = np.array(one.losses), np.array(other.losses)
            if np.all(a <= b):
                assert score >= other_score
            if np.all(a < b):
                assert score > other_score


def dominated(strategy: Strategy, seed: int) -> float:
    """Return the hypervolume of a run on two bowls whose lowest points lie apart, the reference at (1, 1)."""
    run = Simulation(strategy, BOWL, OBJECTIVES, losses(BOWL), births=50, seed=seed).run()
    area, lowest = 0.0, 1.0
    for x, y in sorted(trial.losses or () for trial in run.history.ranked()):
        if x < 1.0 and y < lowest:
            area += (1.0 - x) * (lowest - y)
            lowest = y
    return area


@pytest.mark.slow
def test_with_two_objectives_it_dominates_more_than_nsga2() -> None:
    screened, bred = ([dominated(make(), seed) for seed in range(2)] for make in (SAEA, NSGA2))
    assert np.mean(screened) > np.mean(bred) + 0.03


@pytest.mark.parametrize("scale", [1.0, pytest.param(1e6, marks=pytest.mark.slow)])
def test_a_smooth_front_is_found_whatever_the_scale_of_an_objective(scale: float) -> None:
    """DTLZ2: the front is a quarter of a circle, which lies where four genes are 0.5."""
    space = SearchSpace(**{f"x{place}": Float(0, 1, default=0.8) for place in range(5)})

    def evaluate(candidate: Candidate) -> Outcome:
        units = space.encode(candidate.genome)
        radius, angle = 1.0 + ((units[1:] - 0.5) ** 2).sum(), units[0] * math.pi / 2.0
        return Outcome("ok", {"loss": float(radius * np.cos(angle)), "cost": float(scale * radius * np.sin(angle))})

    run = Simulation(SAEA(), space, OBJECTIVES, evaluate, births=60, seed=0).run()
    found = np.array([trial.losses for trial in run.history.ranked() if trial.losses]) / [1.0, scale]
    angles = np.arctan2(found[:, 1], found[:, 0])[np.hypot(*found.T) < 1.02]
    assert (np.histogram(angles, 4, (0.0, math.pi / 2.0))[0] > 0).sum() >= 3


def test_with_two_objectives_survivors_spread_over_the_front() -> None:
    run = Simulation(SAEA(), BOWL, OBJECTIVES, losses(BOWL), births=50, seed=1).run()
    kept = [run.history.trials[id].losses or () for id in SAEA().survivors(run.history)]
    assert len(kept) == 12
    best = [min(trial.losses[place] for trial in run.history.ranked() if trial.losses) for place in (0, 1)]
    assert [min(loss[place] for loss in kept) for place in (0, 1)] == best


def test_proposals_made_together_do_not_crowd() -> None:
    space = SearchSpace(**{f"x{i}": Float(0, 1) for i in range(4)})
    history = told(space, 30)
    for id in range(30, 38):
        proposal = SAEA().propose(history, birth_rng(0, id))
        assert proposal is not None
        history.add_candidate(Candidate(id, 0, 0, 30, proposal.genome, proposal.operator))
    units = [history.proposed_units[id] for id in range(30, 38)]
    assert min(float(np.abs(a - b).max()) for a, b in itertools.combinations(units, 2)) > 0.01


def test_proposals_ahead_of_results_are_random_beyond_the_first() -> None:
    def births(**options: Any) -> list[str]:
        run = Simulation(SAEA(**options), SPACES["mixed"], OBJECTIVES[:1], losses(SPACES["mixed"]), births=20, slots=12)
        return [one.operator for one in run.run().candidates[1:12]]

    assert births() == ["spread"] * 5 + ["random"] * 6
    assert births(first=9) == ["spread"] * 8 + ["random"] * 3


def test_proposals_ahead_of_results_are_drawn_from_priors() -> None:
    space = SearchSpace(x=Float(0.0, 1.0, prior=0.2, spread=0.02), n=Int(0, 1))

    def evaluate(candidate: Candidate) -> Outcome:
        return Outcome("ok", {"loss": candidate.genome["x"]})

    run = Simulation(SAEA(), space, OBJECTIVES[:1], evaluate, births=30, slots=30).run()
    assert [one.operator for one in run.candidates[1:5]] == ["spread"] * 3 + ["random"]
    ahead = [one for one in run.candidates if one.operator == "random"]
    assert len(ahead) > 20
    assert np.mean([abs(one.genome["x"] - 0.2) < 0.1 for one in ahead]) > 0.8


def test_one_step_neighbours_of_the_best_are_candidates() -> None:
    space = SearchSpace(n=Int(1, 40), kind=Choice(tuple("abcd")))
    history = told(space, 12)
    drafts = SAEA()._drafts(history, birth_rng(0, 0), [_best(history)])
    asked = {genome_key(space.snap(one.units)) for one in drafts}
    best = history.ranked()[0].genome
    steps = [{**best, "n": int(best["n"]) + step} for step in (-1, 1)] + [{**best, "kind": kind} for kind in "abcd"]
    assert {genome_key(g) for g in steps if 1 <= int(g["n"]) <= 40 and not history.seen(g)} <= asked


def _best(history: History) -> Individual:
    return Individual.of(history.ranked()[0], history)


def test_a_proposal_costs_little_more_in_a_long_run() -> None:
    costs = []
    for count in (100, 3_000):
        history, times = told(SPACES["mixed"], count), []
        for id in range(8):
            start = time.process_time()
            SAEA(rare_values=0.0).propose(history, birth_rng(0, id))  # a chance is cheaper, and rarer in a long run
            times.append(time.process_time() - start)
        costs.append(min(times))
    assert costs[1] < 3 * costs[0]  # 30 times the results


def best_with(centre: float | None, seed: int, births: int = 25) -> float:
    """Return the best loss of a run whose optimum lies at 0.8 of every gene, with a prior around `centre`."""
    hint = {} if centre is None else {"prior": centre, "spread": 0.05}
    space = SearchSpace(**{f"x{place}": Float(0, 1, default=0.5, **hint) for place in range(6)})

    def evaluate(candidate: Candidate) -> Outcome:
        return Outcome("ok", {"loss": float(((space.encode(candidate.genome) - 0.8) ** 2).sum())})

    run = Simulation(SAEA(), space, OBJECTIVES[:1], evaluate, births=births, seed=seed).run()
    return float((run.history.best.losses or (1.0,))[0])  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_good_prior_helps_and_an_adversarial_one_is_overcome() -> None:
    good, none, adversarial = ([best_with(centre, seed) for seed in range(1, 9)] for centre in (0.75, None, 0.2))
    assert np.mean(good) < 0.5 * np.mean(none)
    assert best_with(0.2, 0, births=60) < 0.2 * np.median(adversarial)


def nearest(strategy: SAEA) -> float:
    """Return how near two births of a run of 40 came, the farther of its two genes counting; the loss is noisy."""
    space = SearchSpace(x=Float(0, 1), y=Float(0, 1))

    def evaluate(candidate: Candidate) -> Outcome:
        noise = 0.1 * float(np.random.default_rng(candidate.id).normal())
        return Outcome("ok", {"loss": float(((space.encode(candidate.genome) - 0.4) ** 2).sum()) + noise})

    run = Simulation(strategy, space, OBJECTIVES[:1], evaluate, births=40).run()
    units = np.stack([space.encode(one.genome) for one in run.candidates])
    return float(np.abs(units[:, None] - units[None])[np.triu_indices(40, 1)].max(axis=1).min())


def test_proposals_differ_by_a_share_of_a_mutation() -> None:
    step = 0.3 / math.sqrt(1.0 + 40 / SAEA().population)
    assert nearest(SAEA()) >= 0.25 * step
    assert nearest(SAEA(min_distance=0.0)) < 0.1 * step
