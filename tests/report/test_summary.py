"""What a run says at its end: of the best against the default, as numbers and as a person reads it."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.report.final_comparison import ComparisonState
from evo_tune.report.recommendation import FreshValues
from evo_tune.report.summary import (
    RunResult,
    failures_by_cause,
    flag_to_continue,
    genome_count,
    pruning_line,
    show_fresh_values,
    verdict,
)
from evo_tune.settings import SessionSettings
from evo_tune.store.run import Run
from evo_tune.text import show_decimals
from tests.report.conftest import Made


def ended(gain: float, error: float, beats: bool, **changes: Any) -> RunResult:
    """Return the end of a run whose final comparison over three seeds gave these numbers."""
    trials = [Trial(Candidate(id, 0, id, 0, {"x": id}, "-"), Outcome("ok"), id, (0.0,)) for id in (0, 1)]
    values = {"comparison": ComparisonState((), 1, 3, 3, gain, error, beats), "reduced_comparison": "", **changes}
    result = RunResult.__new__(RunResult)
    vars(result).update(metric="loss", reported_metric="loss", best=trials[1], default=trials[0], results=9, **values)
    vars(result).update(gain=gain, gain_error=error, beaten=beats, on_test_set=False)
    return result


@pytest.mark.parametrize(
    ("gain", "error", "beats", "words"),
    [
        (
            0.2,
            0.0,
            True,
            "difference: 0.20000: the best beats the default "
            "(the same on each of 3 fresh seeds, which says nothing about other data)",
        ),
        (0.0, 0.0, False, "0.00000: the best does not clearly beat the default (the same on each of 3"),
        (0.2, 1e-9, True, "difference: 0.20000 ± 1e-09: the best beats the default (the same on each of 3 fresh seeds"),
        (0.2, 1e-3, True, "(200.0 standard errors, paired over 3 fresh seeds; t test at 5%)"),
        (0.2, 0.1, False, "(2.0 standard errors, paired over 3 fresh seeds; t test at 5%)"),
        (0.2, math.nan, False, "difference: 0.20000 on one fresh seed: the best does not clearly beat"),
    ],
)
def test_the_verdict_tells_the_spread_between_seeds(gain: float, error: float, beats: bool, words: str) -> None:
    assert words in verdict(ended(gain, error, beats))


@pytest.mark.parametrize(
    ("best_seeds", "default_seeds", "words"),
    [
        (4, 1, "difference: 0.00000 (best: the mean of 4 seeds, default: one seed): it may be luck"),
        (1, 1, "difference: 0.00000 (best: one seed, default: one seed): it may be luck"),
    ],
)
def test_a_difference_in_the_search_says_the_seeds_of_both_values(
    best_seeds: int, default_seeds: int, words: str
) -> None:
    result = ended(0.0, 0.0, False, comparison=None, best_seeds=best_seeds, default_seeds=default_seeds)
    assert verdict(result) == words


@pytest.mark.parametrize(
    ("gain", "words"),
    [(0.2, "difference: 0.20000: the best beats the default"), (-0.2, "default genome: trial 1, the finalist, is 0.2")],
)
def test_the_verdict_says_that_a_script_ignores_seeds(gain: float, words: str) -> None:
    result = ended(gain, 0.0, gain > 0)
    assert result.comparison is not None
    result.comparison = replace(result.comparison, ignores_seeds=True)
    result.best = result.best if gain > 0 else result.default
    assert words in verdict(result)
    assert "(the script ignores seeds, so one training of each was compared: the command has no {seed})" in verdict(
        result
    )
    assert "fresh seeds" not in verdict(result)


def test_equal_values_over_fresh_seeds_have_no_error() -> None:
    assert show_fresh_values(FreshValues(1, (0.5, 0.5), 0)) == "0.50000 (n=2, all equal)"
    assert show_fresh_values(FreshValues(1, (0.5, 0.7), 1)) == "0.60000 ± 0.10000 (n=2) (1 failed)"
    assert show_fresh_values(FreshValues(1, (0.5,), 0)) == "0.50000 (n=1)"


BOUND = ((0.5, "val_loss", 2.0),)


@pytest.mark.parametrize(
    ("statuses", "bounded", "line"),
    [
        ((), None, "pruning has not begun: it needs 5 full trainings with a learning curve, and has 0"),
        (
            ("ok", "failed", "ok"),
            None,
            "pruning has not begun: it needs 5 full trainings with a learning curve, and has 2",
        ),
        (("ok",) * 6, 6, "pruning began with trial 6, after 6 full trainings; no training was pruned yet"),
        (
            (*["ok"] * 5, "pruned", "failed", "pruned"),
            5,
            "pruning began with trial 5, after 5 full trainings; 2 pruned, which saved 1.5 full trainings "
            "(19% of the cost without pruning)",
        ),
    ],
)
def test_pruning_says_when_it_began_and_what_it_saved(
    made: Made, statuses: tuple[Any, ...], bounded: int | None, line: str
) -> None:
    run = made(12)
    assert pruning_line(run) == ""
    settings = replace(run.manifest.settings, prune=True)
    run.manifest = msgspec.structs.replace(run.manifest, settings=settings)
    run.candidates = [
        Candidate(id, 0, id, 0, {"x": id}, "-", stop_if=BOUND if bounded is not None and id >= bounded else ())
        for id in range(12)
    ]
    curve = {"ok": ((0.5, {"val_loss": 1.0}), (1.0, {"val_loss": 1.0})), "pruned": ((0.25, {"val_loss": 9.0}),)}
    run.outcomes = {
        id: Outcome(status, curve=curve.get(status, ((1.0, {"val_loss": 1.0}),))) for id, status in enumerate(statuses)
    }
    run.recorded = run.reported = list(run.outcomes)
    run.reported_before_counts = list(range(12))
    run.candidates = run.candidates[: max(len(statuses), (bounded or 0) + 1)]
    assert pruning_line(run) == line


def test_errors_are_gathered_the_commonest_first(made: Made) -> None:
    run = made(12)
    run.outcomes = {
        id: Outcome(status, error=error)  # type: ignore[arg-type]
        for id, (status, error) in enumerate(
            [("ok", None), ("failed", "a"), ("crashed", "b"), ("pruned", None), ("crashed", "b"), ("failed", "b")]
        )
    }
    assert failures_by_cause(run) == [("crashed: b", [2, 4]), ("failed: a", [1]), ("failed: b", [5])]


def test_errors_that_differ_in_numbers_and_quoted_texts_have_one_cause(made: Made) -> None:
    run = made(4)
    errors = ["size 32 is not 'a b'", "size -1.5e3 is not 'c'", "shape is not 'c'", "size 7 is not 'd'"]
    run.outcomes = {id: Outcome("failed", error=error) for id, error in enumerate(errors)}
    assert failures_by_cause(run) == [(f"failed: {errors[0]}", [0, 1, 3]), (f"failed: {errors[2]}", [2])]


def test_an_error_of_any_length_has_a_cause_at_once(made: Made) -> None:
    run, began = made(1), time.monotonic()
    run.outcomes = {0: Outcome("failed", error=" 'a'b" * 100_000)}
    assert len(failures_by_cause(run)) == 1
    assert time.monotonic() - began < 2.0, "the cause is found in the square of an error's length"


def test_the_hint_to_continue_asks_for_three_more_generations(promoted: Run) -> None:
    run = promoted
    assert genome_count(run) == len({str(candidate.genome) for candidate in run.candidates})
    run.sessions = [SessionSettings()]
    whole, part = divmod(genome_count(run), run.manifest.population)
    assert flag_to_continue(run) == f"--generations {whole + (part > 0) + 3}"


@pytest.mark.parametrize(("trials", "more"), [(6, 12), (600, 600 + 3 * 12), (2, 6 + 2)])
def test_the_hint_to_continue_a_run_that_trials_limited_is_in_trials(trials: int, more: int, made: Made) -> None:
    run = made(6)
    assert run.manifest.population == 12
    run.sessions = [SessionSettings(trials=trials)]
    assert flag_to_continue(run) == f"--trials {more}"


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.50000"), (-0.1234567, "-0.12346"), (-1.7e308, "-1.7e+308")])
def test_a_value_has_five_places_unless_it_is_huge(value: float, shown: str) -> None:
    assert show_decimals(value) == shown
