"""The loss at another size: a law is found, its interval holds, and what cannot be told is said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evo_tune.errors import UsageError
from evo_tune.training.scale.laws import Observation, ScalingLaw, interval_advice, predict_loss, reason_not_fittable

TRUE = ScalingLaw(1.2, 40.0, 0.4, 150.0, 0.45, 0.0)
SIZES, TEXTS = (3e4, 1e5, 3e5, 1e6), (1e5, 4e5, 1.6e6)


def fit(rows: list[Observation]) -> ScalingLaw:
    return predict_loss(rows, 1e6, 1e6).law


def observed(noise: float = 0.0, seed: int = 0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [
        Observation(n, d, TRUE(n, d) * float(np.exp(rng.normal(0, noise)))) for n, d in itertools.product(SIZES, TEXTS)
    ]


def test_a_law_without_noise_is_found() -> None:
    found = fit(observed())
    for n, d in ((3e6, 1e7), (1e6, 1.6e6)):
        assert found(n, d) == pytest.approx(TRUE(n, d), rel=0.01)
    assert found.scatter < 0.004  # of the grid


def test_one_bad_training_does_not_bend_it() -> None:
    rows = observed()
    rows[3] = Observation(rows[3].parameters, rows[3].tokens, rows[3].loss * 1.5)
    assert fit(rows)(3e6, 6e6) == pytest.approx(TRUE(3e6, 6e6), rel=0.02)


def test_the_interval_holds_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(8):
        found = predict_loss(observed(0.01, seed), 4e6, 6e6, seed=seed)
        reached = TRUE(4e6, 6e6) * float(np.exp(np.random.default_rng([seed, 1]).normal(0, 0.01)))
        inside += found.low <= reached <= found.high
        assert found.high - found.low < 0.2 * found.loss
    assert inside >= 4  # 80% of 8 are 6; fewer than 4 in one of 100 cases


def few(noise: float, seed: int) -> list[Observation]:
    """Two sizes at two lengths, three trainings each: what a search that is to be transferred has."""
    rng = np.random.default_rng(seed)
    cells = itertools.product((1e5, 2.2e5), (1e5, 4e5), range(3))
    return [Observation(n, d, TRUE(n, d) * float(np.exp(rng.normal(0, noise)))) for n, d, _ in cells]


def test_four_cells_tell_a_loss_of_eight_times_the_compute_within_a_few_percent() -> None:
    """Where the exponents are free, any of them fits four cells, and the interval is ten times as wide."""
    inside, halves = 0, []
    for seed in range(8):
        found = predict_loss(few(0.01, seed), 1.8e6, 4e5, seed=seed)
        reached = TRUE(1.8e6, 4e5) * float(np.exp(np.random.default_rng([seed, 1]).normal(0, 0.01)))
        inside += found.low <= reached <= found.high
        halves.append((found.high - found.low) / 2 / found.loss)
    assert inside >= 4
    assert np.median(halves) < 0.04
    assert min(halves) > 0.01  # one more training scatters by as much


def test_text_beyond_what_was_seen_is_told_with_doubt() -> None:
    wider, longer = (predict_loss(few(0.01, 0), n, d) for n, d in ((1.8e6, 4e5), (2.2e5, 3.2e6)))  # eight times either
    assert (wider.high - wider.low) / 2 < 0.06 * wider.loss
    assert (longer.high - longer.low) / 2 > 0.1 * longer.loss  # 3% a doubling, 1.28 deviations


def test_what_trainings_tell_outweighs_what_is_usual() -> None:
    steep = ScalingLaw(1.0, 3e3, 0.8, 4e3, 0.8, 0.0)
    rows = [Observation(n, d, steep(n, d)) for n in np.geomspace(1e4, 1e6, 5) for d in np.geomspace(1e4, 1e6, 5)]
    assert fit(rows).alpha == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (observed()[:3], "3 trainings"),
        ([row for row in observed() * 3 if row.parameters == SIZES[0]], "one size"),
        ([row for row in observed() * 3 if row.tokens == TEXTS[0]], "one length of text"),
        ([Observation(n, 20 * n, 3.0) for n in np.geomspace(1e4, 1e6, 8)], "one size at two budgets"),
    ],
)
def test_what_a_sample_cannot_tell_is_said(rows: list[Observation], said: str) -> None:
    assert said in reason_not_fittable(rows)
    with pytest.raises(UsageError, match=said):
        fit(rows)


def test_a_few_probes_beside_a_search_of_one_size_and_budget_are_enough() -> None:
    law = ScalingLaw(1.0, 50.0, 0.4, 200.0, 0.4, 0.0)
    search = [Observation(1e5, 1e6, law(1e5, 1e6)) for _ in range(30)]
    probes = [Observation(3e5, tokens, law(3e5, tokens)) for tokens in (1e6, 1e6, 2.5e5)]
    assert (
        reason_not_fittable(search + probes[:2])
        == "one length of text: expected two at least, to see the effect of text"
    )
    assert reason_not_fittable(search + probes) == ""


def test_a_narrow_interval_needs_nothing_and_a_wide_one_is_said_with_a_remedy_in_one_line() -> None:
    rows = observed()
    near = predict_loss(rows, 1e6, 1.6e6)
    assert near.half < 0.05
    assert interval_advice(near) == ""
    far = predict_loss(rows, 1e8, 1e9)
    told = interval_advice(far)
    assert told.startswith(f"the interval is ±{far.half:.0%}, wider than ±5%")
    assert told.endswith("would narrow it")
    assert "\n" not in told
