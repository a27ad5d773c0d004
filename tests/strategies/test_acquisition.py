"""The acquisition of saea: each factor says what it should, and its gradient is that of its logarithm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.history import RunHistory
from evo_tune.genome.kernel import FeatureLayout
from evo_tune.genome.process import GaussianProcess
from evo_tune.genome.space import SearchSpace, log_prior
from evo_tune.genome.trial import Candidate, Constraint, Outcome
from evo_tune.strategies._models import (
    Acquisition,
    EarlierRuns,
    ExpectedImprovement,
    Factor,
    Models,
    Prior,
    constraint_factor,
    success_factor,
)
from evo_tune.strategies.saea import SAEA, _success_factor
from tests.strategies.cases import OBJECTIVES
from tests.strategies.simulate import Simulation, birth_rng

SPACE = SearchSpace(
    x=Float(0, 1, prior=0.3, spread=0.2),
    kind=Choice(("a", "b", "c")),
    alone=Float(0, 1, when={"kind": "a"}),
    n=Int(1, 9),
    other=Choice(("u", "v"), when={"kind": "b"}),
)
LAYOUT = FeatureLayout.of(SPACE)
UNITS = np.stack([SPACE.encode(SPACE.snap(row)) for row in birth_rng(0, 0).random((40, 5))])


def improvement(scores: np.ndarray, pending: int = 0, precise: bool = False) -> ExpectedImprovement:
    scores, points = (scores - scores.mean()) / scores.std(), LAYOUT.features(UNITS)
    waiting = LAYOUT.features(UNITS[:pending] + 0.05)
    process = GaussianProcess.fit(points, scores, LAYOUT.kinds, precise=precise)
    models = Models.fit(process, points, scores, waiting, LAYOUT.category_counts_with_absent, birth_rng(0, 1), True)
    return ExpectedImprovement(
        models, LAYOUT, float(scores.max()), EarlierRuns.of([], points, scores, LAYOUT.category_counts)
    )


NOISY = -((UNITS[:, 0] - 0.4) ** 2) + 0.3 * birth_rng(0, 2).normal(size=len(UNITS))


def factors() -> dict[str, Factor | None]:
    labels = np.where(UNITS[:, 0] + UNITS[:, 3] > 1.1, -1.0, 1.0)
    return {
        "improvement": improvement(NOISY, pending=3),
        "precise improvement": improvement(NOISY, pending=3, precise=True),
        "success": success_factor(LAYOUT, UNITS, labels, 60),
        "constraint": constraint_factor(
            LAYOUT, UNITS, UNITS[:, 0] - UNITS[:, 3] + 0.2 * birth_rng(0, 3).normal(size=len(UNITS))
        ),
        "prior": Prior(SPACE.genes, 0.7),
    }


@pytest.mark.parametrize("name", [*factors(), "all"])
def test_slopes_are_those_of_the_logarithm(name: str) -> None:
    known = factors()
    factor = Acquisition([one for one in known.values() if one], 0.1) if name == "all" else known[name]
    assert factor is not None
    logs = factor if isinstance(factor, Acquisition) else factor.logs
    for point in birth_rng(1, 0).random((4, 5)):
        wanted = approx_fprime(point, lambda at: float(logs(at[None])[0]), 1e-7)
        wanted[[1, 4]] = 0.0  # genes without order
        at, slopes = factor.gradients(point[None])
        assert at == pytest.approx(logs(point[None]), rel=1e-12)
        assert slopes[0] == pytest.approx(wanted, rel=1e-2, abs=1e-4)


def test_more_improvement_is_expected_where_scores_are_high() -> None:
    factor = improvement(-((UNITS[:, 0] - 0.4) ** 2))
    near, far = UNITS[:1].copy(), UNITS[:1].copy()
    near[:, 0], far[:, 0] = 0.4, 0.95
    assert factor.logs(near) > factor.logs(far) + 1.0


def test_a_region_of_failures_is_improbable_and_its_power_makes_it_more_so() -> None:
    labels = np.where(UNITS[:, 0] > 0.6, -1.0, 1.0)
    low, high = np.full((1, 5), 0.5), np.full((1, 5), 0.5)
    low[:, 0], high[:, 0] = 0.3, 0.9
    few, many = success_factor(LAYOUT, UNITS, labels, 2000), success_factor(LAYOUT, UNITS, labels, 40)
    assert few is not None
    assert many is not None
    assert np.exp(few.logs(low))[0] > 0.9 > 0.1 > np.exp(few.logs(high))[0]
    assert few.power == 1.0 < many.power
    assert many.logs(high) == pytest.approx(many.power * few.logs(high))
    assert success_factor(LAYOUT, UNITS, np.ones(len(UNITS)), 40) is None


def test_a_failure_in_a_region_has_a_price_sooner_than_one_at_random() -> None:
    """As many fail in both, but only a region can be avoided."""
    last = np.sort(UNITS[:, 0])[-8]
    region = success_factor(LAYOUT, UNITS, np.where(UNITS[:, 0] >= last, -1.0, 1.0), 200)
    random = success_factor(LAYOUT, UNITS, np.where(np.arange(len(UNITS)) % 5 == 0, -1.0, 1.0), 200)
    assert region is not None
    assert random is not None
    assert region.power > random.power == 1.0


def test_an_edge_is_found_from_trials_near_it() -> None:
    """Trials at both sides of a slanting edge look like noise to a process."""
    space = SearchSpace(**{name: Float(0, 1) for name in "abcde"})

    def near(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        units = birth_rng(seed, 0).random((20 * count, 5))
        beyond = units[:, :3].sum(axis=1) - 1.5
        close = np.flatnonzero(np.abs(beyond) < 0.3)[:count]
        return units[close], np.where(beyond[close] > 0.0, -1.0, 1.0)

    said = []
    for seed in range(4):
        factor = success_factor(FeatureLayout.of(space), *near(30, seed), 30)
        assert factor is not None
        units, labels = near(400, seed + 100)
        chance = np.exp(factor.logs(units) / factor.power)
        said.append(np.where(labels > 0.0, chance, 1.0 - chance).mean())
    assert np.mean(said) > 0.7


def test_what_is_known_of_a_region_of_failures_is_not_lost_in_a_long_run() -> None:
    """A long run ends with hundreds of trials that are alike, and more than the model can be fitted to."""
    space, safe, lost = SearchSpace(**{name: Float(0, 1) for name in "abcde"}), [], []
    for seed in range(3):
        history, rng, best = RunHistory(space, OBJECTIVES[:1]), birth_rng(seed, 0), np.full(5, 0.5)
        alike = best + 0.01 * rng.normal(size=(300, 5))
        for id, row in enumerate([*rng.random((40, 5)), *alike]):
            history.add_candidate(Candidate(id, 0, 0, id, space.snap(row), "random"))
            fine = Outcome("ok", {"loss": float(((row - best) ** 2).sum())})
            history.tell(id, fine if row[:3].sum() < 1.7 else Outcome("failed", error="?"))
        factor = _success_factor(history, FeatureLayout.of(space))
        assert factor is not None
        units = birth_rng(seed, 1).random((300, 5))
        units[:, 3:], beyond = 0.5, units[:, :3].sum(axis=1) - 1.7
        chance = np.exp(factor.logs(units) / factor.power)  # type: ignore[attr-defined]
        safe.append(chance[beyond < -0.1].mean())
        lost.append(chance[beyond > 0.1].mean())
    assert np.mean(safe) > 0.85
    assert np.mean(lost) < 0.3


def test_out_of_memory_is_a_region_and_a_lost_node_is_none() -> None:
    def chance(status: str) -> float:
        history = RunHistory(SPACE, OBJECTIVES[:1])
        for id, row in enumerate(UNITS):
            history.add_candidate(Candidate(id, 0, 0, id, SPACE.snap(row), "random"))
            lost = row[0] > 0.6
            history.tell(id, Outcome(status, error="?") if lost else Outcome("ok", {"loss": 1.0}))  # type: ignore[arg-type]
        factor, there = _success_factor(history, LAYOUT), np.full((1, 5), 0.5)
        there[:, 0] = 0.9
        assert factor is not None
        return float(np.exp(factor.logs(there))[0]) ** (1.0 / factor.power)  # type: ignore[attr-defined]

    assert chance("out_of_memory") < 0.1
    assert chance("crashed") > 0.4


def test_the_probability_of_a_constraint_falls_across_its_bound() -> None:
    excess = UNITS[:, 0] - 0.5
    excess[3] = np.nan  # a metric that a trial lacks
    factor = constraint_factor(LAYOUT, UNITS, excess)
    assert factor is not None
    points = np.full((3, 5), 0.5)
    points[:, 0] = (0.3, 0.5, 0.7)
    chances = np.exp(factor.logs(points))
    assert chances[0] > 0.95 > 0.9 > chances[1] > 0.1 > 0.05 > chances[2]
    assert constraint_factor(LAYOUT, UNITS, np.full(len(UNITS), np.nan)) is None


def test_the_prior_counts_with_its_weight() -> None:
    assert Prior(SPACE.genes, 0.5).logs(UNITS) == pytest.approx(0.5 * log_prior(SPACE.genes, UNITS))


def test_a_run_ends_at_an_active_constraint() -> None:
    """The lowest loss is beyond the bound x + y ≤ 1, so the best feasible point is on it, at (0.6, 0.4)."""
    space = SearchSpace(x=Float(0, 1), y=Float(0, 1))

    def evaluate(candidate: Candidate) -> Outcome:
        x, y = space.encode(candidate.genome)
        return Outcome("ok", {"loss": (x - 0.8) ** 2 + (y - 0.6) ** 2, "sum": x + y})

    found = []
    for seed in range(2):
        run = Simulation(SAEA(), space, OBJECTIVES[:1], evaluate, births=0, seed=seed)
        run.history = RunHistory(space, OBJECTIVES[:1], [Constraint.parse("sum<=1")])
        run.births = 35
        best = run.run().history.best
        assert best is not None
        assert best.feasible
        found.append((best.losses or (1.0,))[0])
    assert max(found) < 0.08 + 1e-4


def test_few_trainings_fail_where_large_models_are_better_until_they_fail() -> None:
    space = SearchSpace(depth=Int(1, 16), width=Int(1, 16), lr=Float(0, 1))

    def evaluate(candidate: Candidate) -> Outcome:
        units = space.encode(candidate.genome)
        if units[0] + units[1] > 1.2:
            return Outcome("out_of_memory", error="too large")
        return Outcome("ok", {"loss": float(-units[0] - 0.5 * units[1] + (units[2] - 0.5) ** 2)})

    history = Simulation(SAEA(), space, OBJECTIVES[:1], evaluate, births=60).run().history
    assert sum(not trial.ok for trial in history.trials[20:]) <= 6
    assert history.best is not None
    assert (history.best.losses or (0.0,))[0] < -1.05
