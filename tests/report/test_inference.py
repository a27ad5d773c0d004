"""Statistics of few noisy results agree with scipy and statsmodels' definitions, and hold their error rates."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from evo_tune.report.inference import (
    MAX_SEEDS,
    differences_to_one,
    gain_of_choice,
    holm,
    paired_difference,
    student_tail,
    student_threshold,
    unpaired_difference,
)


@given(st.floats(-1e6, 1e6), st.integers(1, 400))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_students_tail_is_scipys(t: float, freedom: int) -> None:
    assert student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-8)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 31])
def test_students_tail_is_exact(freedom: int) -> None:
    for t in (-50.0, -2.0, 0.1, 0.9, 1.7, 3.0, 12.0, 900.0):
        assert student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-14)


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("level", [0.05, 0.01, 0.0018])
def test_students_quantiles_are_scipys(freedom: int, level: float) -> None:
    assert student_tail(stats.t.isf(level, freedom), freedom) == pytest.approx(level, rel=1e-10)
    assert student_tail(math.inf, freedom) == 0.0
    assert student_tail(-math.inf, freedom) == 1.0


@pytest.mark.parametrize("seeds", [2, 3, 8, 40])
def test_differences_are_scipys(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    losses, reference = rng.normal(1.0, 0.3, seeds), rng.normal(1.2, 0.9, seeds + 3)
    paired = paired_difference(list(zip(losses, reference[:seeds], strict=True)))
    unpaired = unpaired_difference(list(losses), list(reference))
    for difference, result in (
        (paired, stats.ttest_rel(reference[:seeds], losses)),
        (unpaired, stats.ttest_ind(reference, losses, equal_var=False)),
    ):
        assert difference.p_value == pytest.approx(result.pvalue, rel=1e-3)  # rounding adds a little
        low, high = result.confidence_interval(0.95)
        assert difference.gain - difference.half_width(0.05) == pytest.approx(low, rel=1e-3)
        assert difference.gain + difference.half_width(0.05) == pytest.approx(high, rel=1e-3)


def test_one_variant_is_a_paired_test() -> None:
    rng = np.random.default_rng(5)
    losses, variant = list(rng.normal(size=6)), list(rng.normal(size=6))
    alone = differences_to_one(losses, [variant], True)[0]
    paired = paired_difference(list(zip(losses, variant, strict=True)), True)
    assert (alone.gain, alone.freedom) == (paired.gain, paired.freedom)
    assert alone.error == pytest.approx(paired.error)
    assert differences_to_one([1.0], [[2.0]])[0].freedom == 0
    assert differences_to_one([1.0, 2.0], []) == []


def test_variants_share_their_noise_but_not_with_an_outlier() -> None:
    rng = np.random.default_rng(6)
    table = rng.normal(0.0, 0.1, (9, 3)) + rng.normal(0.0, 2.0, 3)  # each seed moves all losses
    differences = differences_to_one(list(table[0]), [list(row) for row in table[1:]], True)
    assert {difference.freedom for difference in differences} == {16}
    assert differences[0].error == pytest.approx(0.1 * math.sqrt(2 / 3), rel=0.5)
    table[4] = [50.0, 90.0, -70.0]
    differences = differences_to_one(list(table[0]), [list(row) for row in table[1:]], True)
    assert [difference.freedom for difference in differences] == [14, 14, 14, 2, 14, 14, 14, 14]
    assert differences[0].error < 0.2


def test_pooled_errors_keep_their_level() -> None:
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(1500):
        table = rng.normal(size=(7, 2))
        wrong += sum(d.p_value <= 0.05 for d in differences_to_one(list(table[0]), [list(r) for r in table[1:]], True))
    assert wrong / 9000 == pytest.approx(0.05, abs=0.012)


def test_a_step_of_the_metric_adds_to_the_error() -> None:
    pairs = [(0.0, 0.1), (0.1, 0.2)] * 2  # equal differences, by rounding to tenths
    assert paired_difference(pairs, is_fine_grained=True).total_error == 0.0
    assert paired_difference(pairs).total_error == pytest.approx(0.1 / math.sqrt(6 * 4))
    assert unpaired_difference([0.1, 0.1], [0.2, 0.2]).total_error == pytest.approx(0.1 / math.sqrt(12))


def test_too_few_results_have_no_error() -> None:
    for difference in (paired_difference([(1.0, 2.0)]), unpaired_difference([1.0], [2.0, 2.5])):
        assert difference.gain > 0.0
        assert math.isnan(difference.p_value)
        assert math.isnan(difference.half_width(0.05))
        assert difference.seeds_needed(1, 0.05) is None
    assert math.isnan(unpaired_difference([], [1.0]).gain)


@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=12))
def test_holm_is_its_definition(p_values: list[float]) -> None:
    corrected = holm(p_values)
    tested = sorted(p for p in p_values if not math.isnan(p))
    for p, result in zip(p_values, corrected, strict=True):
        if math.isnan(p):
            assert math.isnan(result)
        else:
            steps = [min(1.0, (len(p_values) - rank) * other) for rank, other in enumerate(tested) if other <= p]
            assert result == max(steps)


def test_holm_keeps_the_error_of_a_family() -> None:
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(600):
        losses = rng.normal(0.0, 1.0, (8, 5))
        differences = [paired_difference(list(zip(row, losses[0], strict=True)), True) for row in losses[1:]]
        wrong += min(holm([difference.p_value for difference in differences])) <= 0.05
    assert wrong / 600 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_the_seeds_that_are_needed_have_the_power() -> None:
    rng = np.random.default_rng(2)
    pilot = [
        (loss, loss + gain) for loss, gain in zip(rng.normal(0, 1, 9), stats.zscore(rng.normal(0, 1, 9)), strict=True)
    ]
    pilot = [(loss, reference + 0.8) for loss, reference in pilot]
    difference = paired_difference(pilot, True)
    needed = difference.seeds_needed(9, 0.05)
    deviation = difference.error * 3.0
    assert needed is not None
    shown = sum(
        paired_difference([(0.0, gain) for gain in rng.normal(difference.gain, deviation, needed)], True).p_value
        <= 0.05
        for _ in range(400)
    )
    assert 0.73 <= shown / 400 <= 0.88
    assert paired_difference([(0.0, 1.0), (0.0, -1.0 + 1e-9)], True).seeds_needed(2, 0.05) is None  # above MAX_SEEDS
    assert MAX_SEEDS == 10_000


@pytest.mark.parametrize("variants", [4, 14])
def test_the_gain_of_the_best_is_corrected_for_the_choice(variants: int) -> None:
    rng, measured, corrected = np.random.default_rng(3), [], []
    for _ in range(400):
        truth = rng.normal(0.0, 0.5, variants)
        gains = truth + rng.normal(0.0, 0.5, variants)
        best = int(np.argmax(gains))
        measured.append(gains[best] - truth[best])
        corrected.append(gain_of_choice(list(gains), 0.5) - truth[best])
    assert abs(fmean(corrected)) < 0.6 * fmean(measured)
    assert np.mean(np.square(corrected)) < np.mean(np.square(measured))


def test_three_gains_and_equal_ones_stay() -> None:
    assert gain_of_choice([1.0, 2.0, 3.0], 9.0) == 3.0
    assert gain_of_choice([2.0] * 5, 1.0) == 2.0
    assert gain_of_choice([1.0, 2.0, 3.0, 6.0], 0.0) == 6.0
    assert gain_of_choice([1.0, 2.0, 3.0, 6.0], 99.0) == 3.0


@pytest.mark.parametrize("freedom", [1, 2.5, 30])
def test_a_threshold_is_the_inverse_of_the_tail(freedom: float) -> None:
    assert student_tail(student_threshold(0.01, freedom), freedom) == pytest.approx(0.01)
