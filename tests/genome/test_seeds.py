"""What is believed of noisy losses is what the mathematics says, and it does not take luck for merit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from evo_tune.genome.kernel import covariance, square_distances_by_feature
from evo_tune.genome.seeds import (
    SeedModel,
    Trainings,
    choose_genomes,
    fit_seed_model,
    likelihood_gradient,
    predict_losses,
)
from evo_tune.genome.values import rank_correlation

FREE = np.array([False, False, True])
LOGS = np.array([0.5, 0.2, -1.0, -3.0, -2.5, -2.0])


def trainings(genomes: int, rng: np.random.Generator, further: int = 3) -> Trainings:
    """Return trainings of random genomes, some of them with further seeds."""
    points = np.column_stack([rng.random((genomes, 2)), rng.integers(3, size=genomes)])
    rows = np.append(np.arange(genomes), rng.integers(genomes, size=further))
    seeds = np.append(np.zeros(genomes, dtype=int), 1 + np.arange(further) % 2)
    return Trainings(points, rows, seeds, rng.normal(size=len(rows)), FREE)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    given = trainings(9, np.random.default_rng(0))
    scores, *_ = given.standardize()
    points = given.points[given.rows]

    def likelihood(logs: np.ndarray) -> float:
        kernel = covariance(np.exp(logs[:3]), points, points, FREE)
        kernel = kernel + sum(np.exp(log) * part for log, part in zip(logs[3:], given.common_parts, strict=True))
        return float(multivariate_normal(np.zeros(len(scores)), kernel).logpdf(scores))

    found = likelihood_gradient(square_distances_by_feature(points, points, FREE), given.common_parts, scores, LOGS)
    assert np.allclose(found, approx_fprime(LOGS, likelihood, 1e-6), atol=1e-3)


def conditioned(given: Trainings, more: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the genomes' merits and of one more training, given all others, in one piece."""
    scores, mean, scale = given.standardize()
    own, shared, noise = np.exp(LOGS[3:])
    points = np.concatenate([given.points, more[None]])
    merit = covariance(np.exp(LOGS[:3]), points, points, FREE) + own * np.eye(len(points))
    is_known = (more[None] == given.points).all(axis=1)
    if is_known.any():  # the same genome again
        merit[-1, :-1] = merit[:-1, -1] = merit[:-1, :-1][int(np.argmax(is_known))]
        merit[-1, -1] = merit[0, 0]
    rows, seeds = np.append(given.rows, len(given.points)), np.append(given.seeds, seed)
    trained = merit[np.ix_(rows, rows)] + shared * np.equal.outer(seeds, seeds) + noise * np.eye(len(rows))
    cross = merit[:, rows[:-1]]
    known = np.linalg.inv(trained[:-1, :-1])
    whole = np.block([[merit, merit[:, rows[-1:]]], [merit[rows[-1:]], trained[-1:, -1:]]])
    side = np.concatenate([cross, trained[-1:, :-1]])
    return mean + scale * (side @ known @ scores), scale**2 * (whole - side @ known @ side.T)


@pytest.mark.parametrize("seed", [1, 2])
def test_expected_losses_and_the_value_of_a_seed_follow_from_conditioning(seed: int) -> None:
    given = trainings(7, np.random.default_rng(seed))
    belief = SeedModel(given, LOGS)
    for row in range(7):
        means, spread = conditioned(given, given.points[row], 3)
        assert np.allclose(belief.expected, means[:7])
        moved = spread[:7, -1] / np.sqrt(spread[-1, -1])
        after = means[:7, None] + moved[:, None] * np.random.default_rng(0).normal(size=20_000)
        assert belief.gain_of_seed(row, 3) == pytest.approx(means[:7].min() - after.min(axis=0).mean(), abs=0.01)
    assert belief.best == int(np.argmin(belief.expected))


def test_the_value_of_a_new_genome_follows_from_conditioning() -> None:
    given = trainings(7, np.random.default_rng(3))
    belief, rng = SeedModel(given, LOGS), np.random.default_rng(4)
    worth = []
    for point in (points := np.column_stack([rng.random((4, 2)), rng.integers(3, size=4)])):
        means, spread = conditioned(given, point, 0)
        moved = spread[:8, -1] / np.sqrt(spread[-1, -1])
        after = means[:8, None] + moved[:, None] * np.random.default_rng(0).normal(size=20_000)
        worth.append(means[:7].min() - after.min(axis=0).mean())
    assert belief.gain_of_new(points) == pytest.approx(max(worth), abs=0.02)
    assert belief.gain_of_new(points[:1]) < belief.gain_of_new(points) + 1e-12


def noisy(rng: np.random.Generator, shared: float) -> tuple[Trainings, np.ndarray]:
    """Return a bowl's noisy losses, the six that look best with a second seed, which is bad luck for all of them."""
    points = rng.random((40, 3))
    true = ((points - 0.4) ** 2).sum(axis=1)
    seen = true + 0.2 * rng.normal(size=40)
    again = np.argsort(seen)[:6]
    losses = np.append(seen, true[again] + shared + 0.2 * rng.normal(size=6))
    rows = np.append(np.arange(40), again)
    return Trainings(points, rows, (np.arange(46) >= 40).astype(int), losses, np.zeros(3, dtype=bool)), true


def test_the_best_is_not_the_luckiest() -> None:
    chosen, luckiest = [], []
    for seed in range(20):
        given, true = noisy(np.random.default_rng(seed), 0.0)
        chosen.append(true[SeedModel(given, fit_seed_model(given)).best])
        luckiest.append(true[int(np.argmin(given.losses[:40]))])
    assert np.mean(chosen) < 0.8 * np.mean(luckiest)


def test_a_bad_seed_does_not_count_against_its_genomes() -> None:
    """By the mean over their seeds the six that had the seed would all fall behind."""
    chosen, by_mean = [], []
    for seed in range(20):
        given, true = noisy(np.random.default_rng(seed), 0.8)
        chosen.append(true[SeedModel(given, fit_seed_model(given)).best])
        means = [given.losses[given.rows == row].mean() for row in range(40)]
        by_mean.append(true[int(np.argmin(means))])
    assert np.mean(chosen) < 0.8 * np.mean(by_mean)


def test_own_seeds_carry_nothing_over_to_other_genomes() -> None:
    """Whatever they are called, and though a number be the same: a bad one is then the genomes' own."""
    given, _ = noisy(np.random.default_rng(0), 0.8)
    own = replace(given, shared=False)
    renamed = replace(own, seeds=np.random.default_rng(1).permutation(46))
    found = [SeedModel(one, fit_seed_model(one)) for one in (own, renamed, given)]
    assert np.array_equal(found[0].expected, found[1].expected)
    again = np.unique(given.rows[40:])
    assert (found[0].expected[again] > found[2].expected[again] + 0.05).all()
    best = int(again[0])
    assert found[0].gain_of_seed(best, 1) == found[0].gain_of_seed(best, 9) == found[1].gain_of_seed(best, 0)
    points = given.points[:5] + 0.01
    assert found[0].gain_of_new(points) == found[1].gain_of_new(points)
    known = [{0: loss} for loss in given.losses[:40].tolist()]
    for row, loss in zip(given.rows[40:], given.losses[40:].tolist(), strict=True):
        known[row][1] = loss
    told = [
        predict_losses(known, lambda rows: given.points[list(rows)], given.unordered, shared)
        for shared in (True, False)
    ]
    assert told[0] != told[1]


def test_the_model_is_fitted_to_the_best_and_some_others() -> None:
    rng = np.random.default_rng(0)
    means, counts = rng.random(500), np.ones(500)
    counts[np.argsort(means)[:10]] = 4
    rows = choose_genomes(means, counts)
    order = np.argsort(means)
    assert rows[:32].tolist() == order[:32].tolist()
    assert counts[rows].sum() <= 72
    assert means[rows].max() == means.max()
    assert sorted(choose_genomes(means[:20], np.ones(20)).tolist()) == list(range(20))


def test_huge_losses_do_not_hide_differences_among_the_good_ones() -> None:
    found = []
    for seed in range(5):
        given, true = noisy(np.random.default_rng(seed), 0.0)
        losses = given.losses.copy()
        losses[np.argsort(losses)[-8:]] = 1e12
        bad = Trainings(given.points, given.rows, given.seeds, losses, given.unordered)
        good = np.argsort(true)[:20]
        found.append(rank_correlation(SeedModel(bad, fit_seed_model(bad)).expected[good], true[good]))
    assert np.mean(found) > 0.4


def test_if_seeds_change_nothing_the_mean_loss_is_expected() -> None:
    given, _ = noisy(np.random.default_rng(0), 0.0)
    known = [{0: loss} for loss in given.losses[:40].tolist()]
    for differs in (0.0, 0.1):
        known[3][1] = known[3][0] + differs
        found = predict_losses(known, lambda rows: given.points[list(rows)], given.unordered)
        seen = {row: float(np.mean(list(losses.values()))) for row, losses in enumerate(known)}
        assert (found == seen) == (differs == 0.0)
        assert list(found.values()) == sorted(found.values())
    assert predict_losses(known[:2], lambda rows: given.points[list(rows)], given.unordered) == {
        row: known[row][0] for row in sorted(range(2), key=lambda row: known[row][0])
    }


def test_with_few_genomes_of_one_seed_nothing_is_taken_for_noise() -> None:
    rng = np.random.default_rng(0)
    points, losses = rng.random((11, 12)), rng.random(11).tolist()
    for second in (False, True):
        known = [{0: loss} for loss in losses]
        if second:
            known[0][1] = losses[0] + 0.5
        found = predict_losses(known, lambda rows: points[list(rows)], np.zeros(12, dtype=bool))
        ranked = sorted(enumerate(losses), key=lambda one: one[1])
        assert (list(found.items()) == ranked) == (not second)


@pytest.mark.parametrize("power", [-900, -3, 10, 1020])
def test_the_scale_of_the_loss_does_not_matter(power: int) -> None:
    given = trainings(9, np.random.default_rng(4))
    other = replace(given, losses=np.ldexp(given.losses, power))
    assert np.abs(given.losses).max() < 4.0
    assert np.array_equal(fit_seed_model(other), fit_seed_model(given))
    one, two = SeedModel(given, LOGS), SeedModel(other, LOGS)
    assert np.array_equal(two.expected, np.ldexp(one.expected, power))
    assert two.gain_of_seed(0, 3) == np.ldexp(one.gain_of_seed(0, 3), power)
