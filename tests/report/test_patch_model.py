"""The model of all trainings finds which patches gain, and which pairs help or hurt each other."""

from __future__ import annotations

import numpy as np

from evo_tune.report.patch_model import fit_gains


def test_it_finds_gains_and_interactions_in_noise() -> None:
    rng = np.random.default_rng(0)
    on, lr = (rng.random((80, 6)) < 0.5).astype(float), rng.random((80, 1))
    truth = np.array([0.1, 0.06, 0.08, 0.0, 0.0, -0.05])
    pair = 0.08 * on[:, 0] * on[:, 2]  # the two hurt each other
    best = 0.5 + 0.1 * on[:, 1]
    losses = 1.5 - on @ truth + pair + 0.5 * (lr[:, 0] - best) ** 2 + rng.normal(0.0, 0.01, 80)
    model = fit_gains(tuple("abcdef"), on, lr, losses)
    gains, errors = np.diag(model.gains), np.diag(model.errors)
    assert np.abs(gains - truth).max() < 0.03
    assert (np.abs(gains - truth) < 4 * errors).all()
    pairs = np.triu(model.gains, 1)
    assert np.unravel_index(np.abs(pairs).argmax(), pairs.shape) == (0, 2)
    assert -0.1 < pairs[0, 2] < -0.04
    assert (model.gains == model.gains.T).all()


def test_without_information_it_says_so() -> None:
    rng = np.random.default_rng(1)
    on = np.zeros((20, 2))
    on[:, 0] = rng.random(20) < 0.5
    model = fit_gains(("a", "never"), on, np.zeros((20, 0)), 1.0 - 0.1 * on[:, 0] + rng.normal(0, 0.01, 20))
    assert model.gains[1, 1] == 0.0
    assert model.errors[1, 1] > 3 * model.errors[0, 0]
