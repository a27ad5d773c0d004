"""The final comparison: same work and verdict in any order of results, at most its cap, and sensible verdicts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import astuple, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from evo_tune.report.final_comparison import (
    ALPHA,
    MAX_SEEDS_FACTOR,
    ComparisonState,
    FinalComparison,
    FreshTraining,
    default_look_seeds,
)

Loss = float | None
Draw = Callable[[FreshTraining], Loss]

SEEDS = st.integers(1, 7)
FINALISTS = st.integers(1, 6)
LUCK = st.integers(0, 2**32)
ODD = (None, 0.0, 1.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-308)


def play(
    comparison: FinalComparison, draw: Draw, order: random.Random | None = None
) -> tuple[dict[FreshTraining, Loss], ComparisonState]:
    """Play a comparison to its end, a wave at a time, or one by one out of what is wanted, in any order."""
    results: dict[FreshTraining, Loss] = {}
    while wanted := (state := comparison.state(results)).next_trainings:
        assert len(set(wanted)) == len(wanted)
        assert not set(wanted) & results.keys()
        assert state.beats is None
        for one in wanted if order is None else [order.choice(wanted)]:
            results[one] = draw(one)
    return results, state


def made(finalists: int, seeds: int) -> FinalComparison:
    return FinalComparison(tuple(range(1, finalists + 1)), 0, seeds)


def table(luck: int) -> Draw:
    """Return losses for any training: all usual, or with a few or many odd ones among them."""
    share = random.Random(luck).choice([0.0, 0.1, 0.6])

    def draw(one: FreshTraining) -> Loss:
        rng = random.Random(f"{luck} {one}")
        return rng.choice(ODD) if rng.random() < share else rng.gauss(-one.id * (luck % 3), 1)

    return draw


@given(FINALISTS, SEEDS, LUCK)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_the_order_of_arrival_changes_neither_work_nor_verdict(finalists: int, seeds: int, luck: int) -> None:
    comparison, draw, order = made(finalists, seeds), table(luck), random.Random(luck)
    by_waves = play(comparison, draw)
    one_by_one = play(comparison, draw, order)
    assert by_waves[0].keys() == one_by_one[0].keys()
    assert repr(by_waves[1]) == repr(one_by_one[1])
    shuffled = list(by_waves[0].items())
    order.shuffle(shuffled)
    half = dict(shuffled[: len(shuffled) // 2])  # killed: what is on disk decides what is still trained
    while wanted := comparison.state(half).next_trainings:
        half |= {one: by_waves[0][one] for one in wanted}
    assert half.keys() == by_waves[0].keys()


@given(FINALISTS, SEEDS, LUCK)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_caps_are_kept_and_failures_never_win(finalists: int, seeds: int, luck: int) -> None:
    comparison = made(finalists, seeds)
    results, state = play(comparison, table(luck))
    halvings = math.ceil(math.log2(finalists))
    for id in range(finalists + 1):
        numbers = {
            kind: [one.seed_number for one in results if (one.id, one.purpose) == (id, kind)] for kind in Purposes
        }
        assert len(numbers["report"]) <= MAX_SEEDS_FACTOR * seeds
        assert len(numbers["choose"]) <= math.ceil(seeds / 3) * halvings
        assert sorted(numbers["report"]) == list(range(1, len(numbers["report"]) + 1))
    assert not any(one.purpose == "choose" and one.id == 0 for one in results)
    if state.chosen is None:
        assert state.beats is None
        return
    mine, other = (
        [results[FreshTraining(id, "report", n)] for n in range(1, state.seeds + 1)] for id in (state.chosen, 0)
    )
    good = [(a, b) for a, b in zip(mine, other, strict=True) if usable(a) and usable(b)]
    assert state.pairs == len(good)
    assert state.pairs < 2 or (math.isfinite(state.gain) and state.error >= 0)
    if state.beats:
        assert all(usable(a) for a, b in zip(mine, other, strict=True) if usable(b))
        assert state.gain > 0
        assert state.pairs >= 2


Purposes = ("choose", "report")


def usable(loss: Loss) -> bool:
    return loss is not None and abs(loss) < 1e300


def test_a_clear_case_takes_fewer_trainings_than_a_close_one() -> None:
    rng = random.Random(0)
    comparison = made(2, 3)
    worse, _ = play(comparison, lambda one: rng.gauss(1 if one.id else 0, 0.1))
    better, state = play(comparison, lambda one: rng.gauss(-9 if one.id else 0, 0.1))
    assert state.beats
    assert len(worse) == 2 + 2 * 2
    assert len(better) < 2 + 2 * 6
    noise = iter([0.0, 2.0, 0.1, 1.8, 0.2, 1.5])
    close, state = play(comparison, lambda one: 0.0 if one.id or one.purpose == "choose" else next(noise))
    assert len(close) == 2 + 2 * 6


def test_reporting_seeds_had_no_part_in_the_choice() -> None:
    results, state = play(made(5, 3), lambda one: {1: 3.0, 2: 2.0, 3: 1.0, 4: 2.5, 5: 4.0}.get(one.id, 5.0))
    assert state.chosen == 3
    assert {one.id for one in results if one.purpose == "report"} == {0, 3}
    assert sum(one.purpose == "choose" for one in results) == 5 + 3 + 2


def test_what_may_run_side_by_side_is_wanted_at_once() -> None:
    wanted = made(3, 3).state({}).next_trainings
    assert [(one.id, one.purpose) for one in wanted] == [*((id, "choose") for id in (1, 2, 3)), *[(0, "report")] * 2]
    assert not made(3, 0).state({}).next_trainings
    assert astuple(made(0, 3).state({})) == astuple(ComparisonState())  # NaN is not equal to NaN from Python 3.13 on


def test_ties_go_to_the_better_of_the_search() -> None:
    assert play(FinalComparison((7, 4), 0, 3), lambda one: 1.0)[1].chosen == 7


@pytest.mark.parametrize("noise", [0.0, 1e-17, 1e-15])
def test_a_seed_that_changes_nothing_gives_an_exact_difference(noise: float) -> None:
    rng = random.Random(1)

    def exact(one: FreshTraining) -> float:
        return (0.1 + 0.2 if one.id else 0.4) + noise * rng.random()

    state = play(FinalComparison((1,), 0, 3, is_fine_grained=True), exact)[1]
    assert (state.beats, state.error, state.pairs) == (True, 0.0, 2)
    assert state.gain == pytest.approx(0.1)
    unsure = play(made(1, 3), exact)[1]  # of two values, each may be the only other one that the metric has
    assert (unsure.beats, unsure.pairs) == (True, 4)
    assert play(made(1, 3), lambda one: 0.3 + noise * rng.random())[1].beats is False


def test_trainings_that_ignore_their_seeds_are_repeated_once() -> None:
    comparison = replace(made(4, 3), lacks_seed=True)
    results, state = play(comparison, lambda one: 0.4 - one.id / 10)
    assert {*results} == {FreshTraining(id, "report", number) for id in (0, 1) for number in (1, 2)}
    assert (state.chosen, state.beats, state.pairs, state.error, state.ignores_seeds) == (1, True, 2, 0.0, True)
    assert state.gain == pytest.approx(0.1)
    for worse in (play(comparison, lambda one: one.id / 10)[1], play(comparison, lambda one: 0.5)[1]):
        assert (worse.beats, worse.ignores_seeds, worse.pairs) == (False, True, 2)


@pytest.mark.parametrize("id", [0, 1])
def test_trainings_that_use_another_seed_than_the_placeholder_are_compared_as_usual(id: int) -> None:
    def draw(one: FreshTraining) -> Loss:
        return None if one.id == 3 else 1.0 - one.id / 9 + (one.seed_number % 2) / 50 * (one.id == id)

    _, state = play(replace(made(3, 3), lacks_seed=True), draw)
    assert state == play(made(3, 3), draw)[1]
    assert (state.chosen, state.ignores_seeds) == (2, False)
    # Results of an earlier version, which chose first, have the same verdict.
    earlier, state = play(made(3, 3), lambda one: 1.0 - one.id / 9)
    assert replace(made(3, 3), lacks_seed=True).state(earlier) == state


def test_a_coarse_metric_needs_more_seeds_than_an_exact_one() -> None:
    """Both losses move with the seed and their difference does not: by one step, that is chance on two seeds."""

    def coarse(one: FreshTraining) -> float:
        return (one.seed_number % 3) / 8 + (0.0 if one.id else 0.125)

    assert (play(made(1, 3), coarse)[1].beats, play(made(1, 3), coarse)[1].pairs) == (True, 4)
    assert play(made(1, 1), coarse)[1].beats is False
    fine = play(made(1, 3), lambda one: one.seed_number / 1000 - one.id)[1]
    assert (fine.beats, fine.pairs, fine.error) == (True, 2, 0.0)


def test_failures_come_last_and_are_no_pairs() -> None:
    good = {1: 5.0, 2: 1.0}
    chosen = play(made(2, 3), lambda one: None if (one.id, one.purpose) == (2, "choose") else good.get(one.id, 9.0))
    assert chosen[1].chosen == 1
    lost = play(made(1, 3), lambda one: None if one.id and one.seed_number == 2 else float(one.seed_number - one.id))
    assert (lost[1].beats, lost[1].pairs) == (False, 1)
    default = play(
        made(1, 3), lambda one: None if not one.id and one.seed_number == 2 else -one.id + one.seed_number % 2 / 9
    )
    assert default[1].pairs == default[1].seeds - 1
    nothing = play(made(1, 3), lambda one: 1.0 if one.id else None)[1]
    assert (nothing.chosen, nothing.beats, nothing.pairs) == (1, None, 0)
    assert astuple(play(made(3, 3), lambda one: None if one.id else 1.0)[1]) == astuple(ComparisonState())


@pytest.mark.parametrize(
    ("seeds", "when"), [(1, [2]), (2, [2, 3, 4]), (3, [2, 4, 6]), (5, [4, 7, 10]), (9, [6, 12, 18])]
)
def test_the_comparison_is_looked_at_in_thirds_of_its_cap(seeds: int, when: list[int]) -> None:
    assert default_look_seeds(seeds) == when


def test_one_look_is_students_test() -> None:
    """With one look the verdict is the plain paired test at 5%."""
    rng = random.Random(2)
    for _ in range(300):
        draws = {FreshTraining(id, "report", n): rng.gauss(-1.5 * id, 0.3) for id in (0, 1) for n in (1, 2)}
        mine, other = ([draws[FreshTraining(id, "report", n)] for n in (1, 2)] for id in (1, 0))
        p = stats.ttest_rel(other, mine, alternative="greater").pvalue
        assert made(1, 1).state(draws).beats == (p <= ALPHA)


def test_the_last_look_of_a_shorter_comparison_may_spend_the_whole_error() -> None:
    whole = FinalComparison((1,), 0, 3)
    losses = {(0, 1): 1.0, (0, 2): 1.01, (1, 1): 0.9, (1, 2): 0.92}
    results = {FreshTraining(id, "report", number): loss for (id, number), loss in losses.items()}
    assert whole.state(results).beats is None
    assert whole.state(results).next_trainings
    assert FinalComparison((1,), 0, 3, (2,)).state(results).beats is True


def test_smaller_comparisons_have_fewer_seeds_and_then_fewer_finalists() -> None:
    found = [
        (len(one.finalists), one.look_seeds) for one in FinalComparison((4, 3, 2), 0, 6).largest_first_alternatives()
    ]
    looks_of = [(4, 8, 12), (4, 8), (4,), (3,), (2,)]
    assert found == [(count, looks) for count in (3, 2, 1) for looks in looks_of]
    assert FinalComparison((), 0, 6).largest_first_alternatives() == []


# Leave one patch out.

GENES = ("rope", "norm", "muon", "idle")
GAINS = {"": 0.0, "rope": 0.3, "norm": 0.2, "muon": -0.3, "idle": 0.0}


def patched(seeds: int) -> FinalComparison:
    return FinalComparison((1, 2), 0, seeds, is_fine_grained=True, patches={1: GENES, 2: ()})


def patch_draw(luck: int, noise: float) -> Draw:
    """Return losses in which trial 1 is best, with what each of its patches gains."""

    def draw(one: FreshTraining) -> Loss:
        rng = random.Random(f"{luck} {one}")
        return (1.0, 0.0, 0.5)[one.id] + GAINS[one.without] + one.seed_number / 7 + rng.gauss(0.0, noise)

    return draw


def play_patches(comparison: FinalComparison, draw: Draw) -> tuple[dict[FreshTraining, Loss], ComparisonState]:
    results: dict[FreshTraining, Loss] = {}
    while wanted := (state := comparison.state(results)).next_trainings:
        assert not set(wanted) & results.keys()
        results |= {one: draw(one) for one in wanted}
    return results, state


def test_each_patch_is_judged_by_leaving_it_out() -> None:
    results, state = play_patches(patched(3), patch_draw(0, 0.02))
    assert (state.chosen, state.beats) == (1, True)
    assert {effect.gene: effect.verdict for effect in state.effects} == {
        "rope": "real",
        "norm": "real",
        "muon": "harmful",
        "idle": "not shown",
    }
    assert state.effects[0].gain == pytest.approx(0.3, abs=0.05)
    assert state.over
    assert all(one.purpose == "report" and one.id == 1 for one in results if one.without)


def test_only_open_patches_get_more_seeds() -> None:
    results, state = play_patches(patched(3), patch_draw(3, 0.05))
    seeds = {gene: sum(one.without == gene for one in results) for gene in GENES}
    assert min(seeds.values()) < max(seeds.values())
    assert max(seeds.values()) <= patched(3).look_seeds[-1]
    assert all(effect.pairs == seeds[effect.gene] for effect in state.effects)


def test_a_run_without_patches_trains_what_it_did() -> None:
    plain = FinalComparison((1, 2), 0, 3, is_fine_grained=True)
    none_on = FinalComparison((1, 2), 0, 3, is_fine_grained=True, patches={1: (), 2: GENES})
    draw = patch_draw(1, 0.1)
    assert play_patches(plain, draw) == play_patches(none_on, draw)
    assert play_patches(plain, draw)[1].effects == ()


def test_the_order_of_results_changes_no_verdict_about_patches() -> None:
    for luck in range(20):
        comparison, draw = patched(1 + luck % 4), patch_draw(luck, 0.2)
        results, state = play_patches(comparison, draw)
        shuffled = list(results.items())
        random.Random(luck).shuffle(shuffled)
        half = dict(shuffled[: len(shuffled) // 2])  # killed
        while wanted := comparison.state(half).next_trainings:
            half[wanted[-1]] = results[wanted[-1]]
        assert half.keys() == results.keys()
        assert comparison.state(half) == state


def test_patches_without_effect_are_rarely_shown() -> None:
    wrong, tries = 0, 400
    for luck in range(tries):
        rng = random.Random(luck)
        comparison = FinalComparison((1,), 0, 2, is_fine_grained=True, patches={1: tuple("abcdefgh")})
        state = play_patches(comparison, lambda one, rng=rng: rng.gauss(-one.id, 0.1))[1]  # type: ignore[misc]
        wrong += any(effect.verdict != "not shown" for effect in state.effects)
    assert 0 < wrong / tries <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / tries)


def test_a_genome_that_fails_without_a_patch_hides_no_other_patch() -> None:
    def draw(one: FreshTraining) -> Loss:
        return None if one.without == "norm" else patch_draw(0, 0.02)(one)

    state = play_patches(patched(3), draw)[1]
    verdicts = {effect.gene: (effect.verdict, effect.pairs > 0) for effect in state.effects}
    assert verdicts["norm"] == ("not shown", False)
    assert verdicts["rope"] == ("real", True)
    assert math.isnan(state.effects[1].gain)
