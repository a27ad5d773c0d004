"""The verdict about variants says no more than their seeds show."""

from __future__ import annotations

import numpy as np
import pytest

from evo_tune.errors import UsageError
from evo_tune.genome.trial import Maximize, Minimize
from evo_tune.report.verdict import Losses, VariantVerdict, Verdict, give_verdict


def by_seed(*values: float | None, first: int = 0) -> dict[str, float | None]:
    return {str(first + number): value for number, value in enumerate(values)}


def row_of(verdict: Verdict, name: str) -> VariantVerdict:
    return next(row for row in verdict.variants if row.variant == name)


def draws(means: dict[str, float], noise: float, seeds: int, luck: int, common: float = 0.0) -> dict[str, Losses]:
    """Return normal losses of variants; `common` is the deviation of what a seed adds to all of them."""
    rng = np.random.default_rng(luck)
    shared = rng.normal(0.0, common, seeds)
    return {name: by_seed(*(mean + rng.normal(0.0, noise, seeds) + shared)) for name, mean in means.items()}


def test_clear_differences_are_real_or_harmful() -> None:
    losses = draws({"base": 1.0, "good": 0.8, "bad": 1.2, "idle": 1.0}, 0.02, 6, 0)
    verdict = give_verdict(losses, "base", Minimize("loss"))
    assert [row.variant for row in verdict.variants] == ["good", "idle", "bad"]
    assert [row.verdict for row in verdict.variants] == ["real", "not shown", "harmful"]
    assert verdict.best == "good"
    assert [row.may_be_best for row in verdict.variants] == [True, False, False]
    assert row_of(verdict, "good").more_seeds == 0
    assert (row_of(verdict, "idle").more_seeds or 0) != 0


def test_shared_seeds_are_paired() -> None:
    losses = draws({"base": 1.0, "good": 0.98}, 0.005, 6, 1, common=0.5)
    paired = row_of(give_verdict(losses, "base", Minimize("loss")), "good")
    assert (paired.pairs, paired.verdict) == (6, "real")
    apart = {"base": losses["base"], "good": {f"other {seed}": loss for seed, loss in losses["good"].items()}}
    unpaired = row_of(give_verdict(apart, "base", Minimize("loss")), "good")
    assert (unpaired.pairs, unpaired.verdict) == (0, "not shown")


def test_few_shared_seeds_are_not_enough_to_pair() -> None:
    losses = {"base": by_seed(*np.linspace(1, 2, 10)), "good": by_seed(*np.linspace(0, 1, 10), first=8)}
    assert row_of(give_verdict(losses, "base", Minimize("loss")), "good").pairs == 0


def test_a_metric_that_is_maximised_is_shown_as_it_is() -> None:
    losses = {"base": by_seed(-0.5, -0.52, -0.51), "good": by_seed(-0.9, -0.91, -0.92)}
    verdict = give_verdict(losses, "base", Maximize("accuracy"))
    assert verdict.baseline_mean == pytest.approx(0.51)
    assert row_of(verdict, "good").mean == pytest.approx(0.91)
    assert row_of(verdict, "good").gain == pytest.approx(0.4)


def test_a_number_may_be_the_baseline() -> None:
    losses = {"a": by_seed(3.277, 3.279, 3.278), "b": by_seed(3.279, 3.281, 3.2805)}
    verdict = give_verdict(losses, "3.28", Minimize("val_loss"))
    assert (verdict.baseline_seeds, verdict.baseline_mean) == (0, 3.28)
    assert row_of(verdict, "a").gain == pytest.approx(0.002)
    assert row_of(verdict, "a").pairs == 0
    one_sample = give_verdict({"a": by_seed(-1.0, -1.1, -1.2)}, "1", Maximize("accuracy"))
    assert row_of(one_sample, "a").gain == pytest.approx(0.1)


def test_one_result_says_nothing() -> None:
    verdict = give_verdict({"base": by_seed(1.0, 1.1, 0.9), "once": by_seed(0.1)}, "base", Minimize("loss"))
    row = row_of(verdict, "once")
    assert (row.p, row.low, row.error, row.more_seeds, row.verdict) == (None, None, None, None, "not shown")
    assert row.gain == pytest.approx(0.9)


def test_a_variant_that_fails_more_often_is_not_real() -> None:
    losses = draws({"base": 1.0, "good": 0.5}, 0.01, 6, 2)
    losses["good"] = {**losses["good"], "6": None}
    assert row_of(give_verdict(losses, "base", Minimize("loss")), "good").verdict == "not shown"
    losses["base"] = {**losses["base"], "6": None}
    assert row_of(give_verdict(losses, "base", Minimize("loss")), "good").verdict == "real"
    only_failures = give_verdict({**losses, "dead": by_seed(None, None)}, "base", Minimize("loss"))
    assert row_of(only_failures, "dead").mean is None
    assert not row_of(only_failures, "dead").may_be_best


@pytest.mark.parametrize("same_seeds", [True, False])
def test_idle_variants_are_rarely_real(same_seeds: bool) -> None:
    wrong = 0
    for luck in range(200):
        losses = draws({"base": 1.0, **{f"idle {number}": 1.0 for number in range(10)}}, 0.1, 4, luck, common=0.1)
        if not same_seeds:
            losses = {name: {f"{name} {seed}": loss for seed, loss in row.items()} for name, row in losses.items()}
        wrong += any(row.verdict != "not shown" for row in give_verdict(losses, "base", Minimize("loss")).variants)
    assert wrong / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_the_best_is_rarely_ruled_out_and_its_interval_holds() -> None:
    ruled_out = outside = 0
    means = {"base": 1.0, **{f"variant {number}": 1.0 - number / 100 for number in range(6)}}
    for luck in range(300):
        verdict = give_verdict(draws(means, 0.05, 4, luck), "base", Minimize("loss"))
        ruled_out += not row_of(verdict, "variant 5").may_be_best
        assert verdict.best_low is not None
        assert verdict.best_high is not None
        outside += not verdict.best_low <= 1.0 - means[str(verdict.best)] <= verdict.best_high
    assert ruled_out / 300 <= 0.09
    assert outside / 300 <= 0.09


@pytest.mark.parametrize(
    ("losses", "baseline", "said"),
    [
        ({"a": by_seed(1.0)}, "a", "a variant beside the baseline"),
        ({"a": by_seed(None), "b": by_seed(1.0)}, "a", "a result of the baseline a"),
        ({"a": by_seed(1.0), "b": by_seed(1.0)}, "c", "expected a variant or a number; the variants are a, b"),
        ({"a": by_seed(1.0)}, "nan", "expected a variant or a number"),
    ],
)
def test_a_verdict_needs_two_sides(losses: dict[str, Losses], baseline: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        give_verdict(losses, baseline, Minimize("loss"))


def test_a_loss_whose_square_overflows_counts_as_failed() -> None:
    """The sum of such losses ended the command with a traceback."""
    losses: dict[str, Losses] = {"base": {1: 1.0, 2: 2.0, 3: -1e308}, "huge": {1: 1e308, 2: 1e308, 3: 1.5}}
    row = row_of(give_verdict(losses, "base", Minimize("loss")), "huge")
    assert (row.failures, row.mean) == (2, 1.5)
    with pytest.raises(UsageError, match="expected a variant or a number"):
        give_verdict(losses, "1e308", Minimize("loss"))
