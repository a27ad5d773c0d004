"""Bands are moved by errors on data of their own, so that they cover what they name."""

from __future__ import annotations

import numpy as np
import pytest

from evo_tune.training.recipe.data.forecasts import conformal_offsets, move_bands

LEVELS = (0.1, 0.5, 0.9)


def windows(count: int, seed: int, horizon: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return forecasts with a band that is too narrow, what came, and scales; errors grow with the step."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(1.0, 50.0, count)
    errors = rng.normal(size=(count, horizon)) * np.arange(1, horizon + 1)
    forecast = np.broadcast_to([-0.1, 0.0, 0.1], (count, horizon, 3)) * scales[:, None, None]
    return forecast, errors * scales[:, None], scales


def covered(forecast: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return ((forecast[..., 0] <= truth) & (truth <= forecast[..., 2])).mean(axis=0)


def test_moved_bands_cover_their_share_at_each_step() -> None:
    offsets = conformal_offsets(*windows(400, seed=0), LEVELS)
    forecast, truth, scales = windows(4000, seed=1)
    moved = move_bands(forecast, offsets, scales, LEVELS)
    assert covered(forecast, truth).max() < 0.1
    assert covered(moved, truth) == pytest.approx(0.8, abs=0.05)
    assert np.array_equal(moved[..., 1], forecast[..., 1]), "the median stays"


def test_bands_that_are_too_wide_shrink_but_never_beyond_the_median() -> None:
    forecast, truth, scales = windows(400, seed=0)
    wide = forecast * 500.0
    offsets = conformal_offsets(wide, truth, scales, LEVELS)
    assert covered(move_bands(wide, offsets, scales, LEVELS), truth) == pytest.approx(0.8, abs=0.01)
    crossing = move_bands(forecast, [[99.0] * 6, [0.0] * 6, [-99.0] * 6], scales, LEVELS)
    assert (np.diff(crossing, axis=2) >= 0.0).all()


def test_few_windows_borrow_from_the_nearest_steps_and_unknown_values_do_not_count() -> None:
    forecast, truth, scales = windows(8, seed=3, horizon=20)
    truth[:, 5] = np.nan
    offsets = np.array(conformal_offsets(forecast, truth, scales, LEVELS))
    assert np.isfinite(offsets).all()
    assert (offsets[0] == -offsets[2]).all()
    assert offsets[2, :5].mean() < offsets[2, -5:].mean(), "later steps have larger errors"
    unknown = conformal_offsets(forecast, np.full_like(truth, np.nan), scales, LEVELS)
    assert not np.any(unknown)


def test_a_level_without_its_opposite_stays() -> None:
    forecast, truth, scales = windows(100, seed=0)
    assert not np.any(conformal_offsets(forecast, truth, scales, (0.2, 0.5, 0.9)))
    assert move_bands(forecast, [], scales, LEVELS) is forecast


def test_the_rank_is_that_of_the_paper() -> None:
    truth = np.arange(1.0, 100.0)[:, None]  # errors 1 to 99 beyond a band of no width
    offsets = conformal_offsets(np.zeros((99, 1, 3)), truth, np.ones(99), LEVELS)
    assert offsets == [[-80.0], [0.0], [80.0]], "rank 100 * 0.8"
