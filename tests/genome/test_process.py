"""The Gaussian process: it interpolates, is as sure as it may be, and finds out which features matter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize_scalar
from scipy.stats import multivariate_normal

pytest.importorskip("sklearn")
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from evo_tune.genome.kernel import matern, square_distances_by_feature
from evo_tune.genome.process import SCALE_PRIOR_SCORES, GaussianProcess, likelihood_gradient

FREE = np.array([False, False, True])


def points(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.hstack([rng.random((count, 2)), rng.integers(3, size=(count, 1))])


def surface(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.sin(4 * x[:, 0]) - (x[:, 2] == 1))


def fitted(count: int) -> GaussianProcess:
    x = points(count, 0)
    scores = surface(x)
    return GaussianProcess.fit(x, (scores - scores.mean()) / scores.std(), FREE)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    x, scores = points(12, 1), np.random.default_rng(1).normal(size=12)
    parts = square_distances_by_feature(x, x, FREE)

    def likelihood(logs: np.ndarray) -> float:
        kernel, _ = matern(np.tensordot(np.exp(logs[:-1]), parts, 1))
        return float(multivariate_normal(np.zeros(12), kernel + np.exp(logs[-1]) * np.eye(12)).logpdf(scores))

    logs = np.array([1.0, 0.3, 0.5, -2.0])
    gradient = likelihood_gradient(x, FREE, scores, np.append(logs, 0.0), np.zeros((12, 12)))
    assert np.allclose(gradient, [*approx_fprime(logs, likelihood, 1e-6), 0.0], atol=1e-3)


def test_predictions_are_those_of_scikit_learn() -> None:
    x, asked = np.random.default_rng(2).random((15, 2)), np.random.default_rng(3).random((9, 2))
    scores = x[:, 0] - x[:, 1] ** 2
    ours = GaussianProcess.fit(x, scores, np.array([False, False]))
    kernel = Matern(length_scale=1.0 / np.sqrt(ours.relevance), nu=2.5)
    matrix = np.linalg.inv(ours.whitening.T @ ours.whitening)
    jitter = float(matrix[0, 0] - 1.0)
    theirs = GaussianProcessRegressor(kernel, alpha=jitter, optimizer=None).fit(x, scores)
    mean, deviation = theirs.predict(asked, return_std=True)
    assert np.allclose(ours.predict(asked)[0], mean, atol=1e-6)
    assert np.allclose(ours.predict(asked)[1], deviation**2, atol=1e-6)


def test_the_gradient_of_a_precise_process_is_that_at_the_most_probable_scale() -> None:
    """The prior of the scale is an inverse gamma distribution, worth KNOWN scores of variance 1."""
    x, scores = points(12, 1), 3.0 * np.random.default_rng(1).normal(size=12)
    parts = square_distances_by_feature(x, x, FREE)

    def posterior(logs: np.ndarray) -> float:
        kernel, _ = matern(np.tensordot(np.exp(logs[:-1]), parts, 1))
        whole = kernel + np.exp(logs[-1]) * np.eye(12)

        def at(scale: float) -> float:
            prior = -0.5 * SCALE_PRIOR_SCORES * (np.log(scale) + 1.0 / scale)
            return float(multivariate_normal(np.zeros(12), scale * whole).logpdf(scores)) + prior

        return -float(minimize_scalar(lambda log: -at(np.exp(log)), bounds=(-5, 8), options={"xatol": 1e-9}).fun)

    logs = np.array([1.0, 0.3, 0.5, -2.0])
    gradient = likelihood_gradient(x, FREE, scores, np.append(logs, 0.0), np.zeros((12, 12)), precise=True)
    assert np.allclose(gradient[:-1], approx_fprime(logs, posterior, 1e-5), atol=1e-2)


def test_predictions_of_a_precise_process_are_those_of_scikit_learn() -> None:
    x, asked = np.random.default_rng(2).random((15, 2)), np.random.default_rng(3).random((9, 2))
    scores = 4.0 * (x[:, 0] - x[:, 1] ** 2)
    ours = GaussianProcess.fit(x, scores, np.array([False, False]), precise=True)
    assert ours.scale > 2.0
    kernel = ConstantKernel(ours.scale) * Matern(length_scale=1.0 / np.sqrt(ours.relevance), nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=ours.noise, optimizer=None)
    mean, deviation = theirs.fit(x, scores).predict(asked, return_std=True)
    assert np.allclose(ours.predict(asked)[0], mean, atol=1e-6)
    assert np.allclose(ours.predict(asked)[1], deviation**2, atol=1e-6)
    waiting = np.random.default_rng(4).random((3, 2))
    theirs.fit(np.concatenate([x, waiting]), np.append(scores, ours.predict(waiting)[0]))
    assert np.allclose(
        ours.with_pending(waiting).predict(asked)[1], theirs.predict(asked, return_std=True)[1] ** 2, atol=1e-6
    )


def test_a_precise_process_knows_a_smooth_surface_of_many_features() -> None:
    """With as many points as features, differences between length scales are chance."""
    errors = []
    for precise in (True, False):
        rng = np.random.default_rng(5)
        for _ in range(5):
            best, x, asked = rng.random(20), rng.random((25, 20)), rng.random((200, 20))
            scores, wanted = -((x - best) ** 2).sum(axis=1), -((asked - best) ** 2).sum(axis=1)
            process = GaussianProcess.fit(
                x, (scores - scores.mean()) / scores.std(), np.full(20, False), precise=precise
            )
            errors.append(1.0 - np.corrcoef(process.predict(asked)[0], wanted)[0, 1])
    assert np.mean(errors[:5]) < 0.8 * np.mean(errors[5:])


@pytest.mark.parametrize("count", [20, 96])
def test_a_precise_process_fits_values_without_noise_and_equal_ones(count: int) -> None:
    x = np.linspace(0, 1, count)[:, None]
    for scores in (-((x[:, 0] - 0.3) ** 2), np.zeros(count)):
        mean, variance = GaussianProcess.fit(x, scores, np.array([False]), precise=True).predict(x)
        assert np.isfinite(mean).all()
        assert (variance > 0.0).all()
        assert np.abs(mean - scores).max() < 1e-3


def test_relevant_features_get_short_length_scales() -> None:
    relevance = fitted(40).relevance
    assert relevance[0] > 10 * relevance[1]
    assert relevance[2] > 10 * relevance[1]


@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_it_is_more_certain_near_its_points(count: int) -> None:
    x = points(count, 4)
    process = GaussianProcess.fit(x, np.random.default_rng(4).normal(size=count), FREE)
    (_, near), (_, far) = process.predict(x), process.predict(x + np.array([3.0, 3.0, 0.0]))
    assert np.all(near > 0.0)
    assert near.mean() < far.mean() <= 1.0 + 1e-9


def test_it_predicts_a_smooth_surface_from_few_points() -> None:
    asked = points(200, 5)
    mean, _ = fitted(25).predict(asked)
    assert np.corrcoef(mean, surface(asked))[0, 1] > 0.95


def test_the_names_of_values_without_order_do_not_matter() -> None:
    x, asked, scores = points(20, 6), points(50, 7), np.random.default_rng(6).normal(size=20)
    swap = np.array([2, 0, 1])
    renamed, asked_renamed = x.copy(), asked.copy()
    renamed[:, 2], asked_renamed[:, 2] = swap[x[:, 2].astype(int)], swap[asked[:, 2].astype(int)]
    plain = GaussianProcess.fit(x, scores, FREE).predict(asked)
    assert np.allclose(plain, GaussianProcess.fit(renamed, scores, FREE).predict(asked_renamed))


def test_many_equal_points_are_fitted() -> None:
    process = GaussianProcess.fit(np.full((50, 3), 0.5), np.linspace(-1, 1, 50), np.array([False] * 3))
    mean, variance = process.predict(np.full((1, 3), 0.5))
    assert abs(mean[0]) < 0.2
    assert np.isfinite(variance).all()


def test_with_less_noise_a_process_follows_its_scores() -> None:
    x, asked = points(25, 0), points(40, 8)
    scores = np.random.default_rng(3).normal(size=25)
    noisy = GaussianProcess.fit(x, scores, FREE)
    exact = noisy.with_noise(1e-6)
    assert noisy.noise > 0.1
    assert np.abs(exact.predict(x)[0] - scores).max() < 1e-2 < 0.1 < np.abs(noisy.predict(x)[0] - scores).max()
    assert np.allclose(exact.with_noise(noisy.noise).predict(asked), noisy.predict(asked), atol=1e-6)


def test_pending_points_change_the_variance_and_not_the_mean() -> None:
    process, out, asked = fitted(25), points(6, 7), points(40, 8)
    believing = process.with_pending(out)
    mean, variance = process.predict(asked)
    same, surer = believing.predict(asked)
    assert np.allclose(mean, same, rtol=1e-12, atol=1e-12)
    assert np.all(surer <= variance + 1e-12)
    seen = np.concatenate([process.points, out])
    kernel, _ = matern(np.tensordot(process.relevance, square_distances_by_feature(seen, seen, FREE), 1))
    shared, _ = matern(np.tensordot(process.relevance, square_distances_by_feature(seen, asked, FREE), 1))
    inverse = np.linalg.inv(kernel + process.noise * np.eye(len(seen)))
    assert np.allclose(surer, np.maximum(1.0 - np.einsum("ac,ab,bc->c", shared, inverse, shared), 1e-9), atol=1e-8)


AGES = np.log([1 / 9, 1 / 3, 1.0])


def test_the_gradient_by_the_drift_is_that_of_the_likelihood() -> None:
    x, rng = points(12, 1), np.random.default_rng(1)
    scores, ages = rng.normal(size=12), AGES[rng.integers(3, size=12)]
    steps, apart = square_distances_by_feature(x, x, FREE), np.abs(ages[:, None] - ages[None, :])

    def likelihood(logs: np.ndarray) -> float:
        kernel, _ = matern(np.tensordot(np.exp(logs[:3]), steps, 1))
        kernel *= np.exp(-np.exp(logs[4]) * apart)
        return float(multivariate_normal(np.zeros(12), kernel + np.exp(logs[3]) * np.eye(12)).logpdf(scores))

    logs = np.array([1.0, 0.3, 0.5, -2.0, -0.7])
    assert np.allclose(
        likelihood_gradient(x, FREE, scores, logs, apart), approx_fprime(logs, likelihood, 1e-6), atol=1e-3
    )


def partly(trusted: bool) -> GaussianProcess:
    """Return what is learned of 20 genomes trained in full, whose early scores are the last ones, or others'."""
    x = points(20, 0)
    scores = surface(x)
    scores = (scores - scores.mean()) / scores.std()
    early = scores if trusted else np.random.default_rng(3).permutation(scores)
    ages = np.repeat(AGES[[0, 2]], 20)
    return GaussianProcess.fit(np.tile(x, (2, 1)), np.append(early, scores), FREE, ages)


def test_it_learns_the_correlation_of_partial_scores() -> None:
    assert partly(True).trust(1 / 9) > 0.95
    assert partly(False).trust(1 / 9) < 0.4
    assert partly(True).trust(1.0) == 1.0


def test_an_update_equals_a_fit_with_the_score() -> None:
    process, asked = partly(True), points(5, 8)
    ages, scores = AGES[[0, 1, 0, 1, 0]], np.array([1.0, -1.0, 0.3, 0.0, 2.0])
    mean, variance = process.predict_after_score(asked, ages, scores)
    for at in range(5):
        seen, when = np.vstack([process.points, asked[at]]), np.append(process.ages, ages[at])
        kernel, _ = matern(np.tensordot(process.relevance, square_distances_by_feature(seen, seen, FREE), 1))
        kernel *= np.exp(-process.drift * np.abs(when[:, None] - when[None, :]))
        shared, _ = matern(
            np.tensordot(process.relevance, square_distances_by_feature(seen, asked[at : at + 1], FREE), 1)
        )
        shared = shared[:, 0] * np.exp(-process.drift * np.abs(when))
        known = np.append(np.linalg.inv(process.whitening.T @ process.whitening) @ process.weights, scores[at])
        inverse = np.linalg.inv(kernel + process.noise * np.eye(len(seen)))
        assert np.isclose(mean[at], shared @ inverse @ known, atol=1e-5)
        assert np.isclose(variance[at], 1.0 - shared @ inverse @ shared, atol=1e-5)
    assert not np.allclose(mean, process.predict(asked)[0], atol=1e-3)
