"""The model of all trainings finds which switches gain, and which pairs help or hurt each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from evo_tune.genome.genes import Float, Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.switches import CONSTANT, SWITCH, SwitchModel, fit_switches
from evo_tune.genome.values import Genome


def make_trainings(on: np.ndarray, units: np.ndarray) -> tuple[SearchSpace, list[str], list[Genome]]:
    """Return a space with a gene for each column, its switches, and the genomes of some trainings."""
    switches = [f"s{number}" for number in range(on.shape[1])]
    genes: dict[str, Gene] = dict.fromkeys(switches, SWITCH)
    space = SearchSpace(None, None, **genes, **{f"x{n}": Float(0.0, 1.0) for n in range(units.shape[1])})
    genomes: list[Genome] = [
        {name: bool(value) for name, value in zip(switches, row, strict=True)}
        | {f"x{n}": float(value) for n, value in enumerate(others)}
        for row, others in zip(on, units, strict=True)
    ]
    return space, switches, genomes


def fit(on: np.ndarray, units: np.ndarray, losses: np.ndarray) -> SwitchModel:
    model = fit_switches(*make_trainings(on, units), losses)
    assert model is not None
    return model


def test_it_finds_gains_and_interactions_in_noise() -> None:
    rng = np.random.default_rng(0)
    on, lr = (rng.random((80, 6)) < 0.5).astype(float), rng.random((80, 1))
    truth = np.array([0.1, 0.06, 0.08, 0.0, 0.0, -0.05])
    pair = 0.08 * on[:, 0] * on[:, 2]  # the two hurt each other
    best = 0.5 + 0.1 * on[:, 1]
    losses = 1.5 - on @ truth + pair + 0.5 * (lr[:, 0] - best) ** 2 + rng.normal(0.0, 0.01, 80)
    model = fit(on, lr, losses)
    gains, errors = model.pair_gains()
    assert np.abs(np.diag(gains) - truth).max() < 0.03
    assert (np.abs(np.diag(gains) - truth) < 4 * np.diag(errors)).all()
    pairs = np.triu(gains, 1)
    assert np.unravel_index(np.abs(pairs).argmax(), pairs.shape) == (0, 2)
    assert -0.1 < pairs[0, 2] < -0.04
    assert (gains == gains.T).all()
    assert 0.005 < model.noise < 0.02


def test_without_information_it_says_so() -> None:
    rng = np.random.default_rng(1)
    on = np.zeros((20, 2))
    on[:, 0] = rng.random(20) < 0.5
    gains, errors = fit(on, np.zeros((20, 0)), 1.0 - 0.1 * on[:, 0] + rng.normal(0, 0.01, 20)).pair_gains()
    assert gains[1, 1] == pytest.approx(0.0, abs=1e-9)
    assert errors[1, 1] > 3 * errors[0, 0]


def test_means_and_covariances_are_those_of_bayesian_linear_regression() -> None:
    """Compared with the textbook form, which inverts the precision of the coefficients (Bishop 2006, 3.3)."""
    rng = np.random.default_rng(2)
    on, units = (rng.random((15, 3)) < 0.5).astype(float), rng.random((15, 2))
    losses = rng.normal(size=15)
    model = fit(on, units, losses)
    _, switches, genomes = make_trainings(on, units)
    features, noise = model.encode(genomes), model.noise / model.deviation
    covariance = np.linalg.inv(features.T @ features / noise**2 + np.eye(features.shape[1]))
    means = covariance @ features.T @ model.scores / noise**2
    contrasts = model.contrasts(genomes[0], switches)
    assert model.mean(contrasts) == pytest.approx(model.deviation * contrasts @ means, rel=1e-5, abs=1e-9)
    expected = model.deviation**2 * contrasts @ covariance @ contrasts.T
    assert model.covariance(contrasts, contrasts) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert model.variance(contrasts) == pytest.approx(np.diag(expected), rel=1e-4, abs=1e-9)
    assert set(features[:, -1]) == {CONSTANT}


def test_the_scales_are_a_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is right: the optimizer ends where no scale, changed by a tenth, is more probable."""
    from scipy import optimize

    rng, calls = np.random.default_rng(3), []
    minimize = optimize.minimize

    def record(function, start, **options):  # type: ignore[no-untyped-def]
        result = minimize(function, start, **options)
        calls.append((function, result.x))
        return result

    monkeypatch.setattr(optimize, "minimize", record)
    on, units = (rng.random((30, 4)) < 0.5).astype(float), rng.random((30, 1))
    fit(on, units, on @ [0.3, 0.2, 0.0, 0.1] + units[:, 0] ** 2 + rng.normal(0.0, 0.05, 30))
    (function, best), step = calls[0], 1e-5
    for place in range(len(best)):
        shift = np.eye(len(best))[place]
        slope = (function(best + step * shift)[0] - function(best - step * shift)[0]) / (2 * step)
        assert slope == pytest.approx(function(best)[1][place], abs=1e-4)
        assert function(best)[0] <= function(best + 0.1 * shift)[0]
        assert function(best)[0] <= function(best - 0.1 * shift)[0]


def test_expected_improvements_are_those_of_a_normal_loss() -> None:
    """The integral of how far a loss is below the best one, over its normal distribution."""
    rng = np.random.default_rng(3)
    on = (rng.random((12, 3)) < 0.5).astype(float)
    model = fit(on, rng.random((12, 2)), 1.0 - on @ [0.2, 0.1, 0.0] + rng.normal(0.0, 0.1, 12))
    genomes = [model.space.sample(np.random.default_rng(seed)) for seed in range(5)]
    features = model.encode(genomes)
    best = float(model.mean(features).mean())
    for mean, variance, gain in zip(
        model.mean(features), model.variance(features), model.expected_improvements(genomes, best), strict=True
    ):
        loss = norm(mean, np.sqrt(variance))
        below = quad(lambda value, loss=loss: (best - value) * loss.pdf(value), loss.ppf(1e-12), best)[0]
        assert gain == pytest.approx(below, rel=1e-6, abs=1e-12)


def test_equal_losses_have_no_model() -> None:
    on = np.eye(4)
    assert fit_switches(*make_trainings(on, np.zeros((4, 0))), np.ones(4)) is None


def test_a_training_that_diverged_hides_nothing() -> None:
    rng = np.random.default_rng(4)
    on = (rng.random((40, 3)) < 0.5).astype(float)
    losses = 1.0 - on @ [0.1, 0.05, 0.0] + rng.normal(0.0, 0.01, 40)
    losses[7] = 1e9
    gains, _ = fit(on, np.zeros((40, 0)), losses).pair_gains()
    assert gains[0, 0] > 0.05
