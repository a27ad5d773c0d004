"""What a run says at its end: of the best against the default, as numbers and as a person reads it."""

from __future__ import annotations

import math

import pytest

from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.report.calibration import Calibrated
from evo_tune.report.summary import Closing, born, failures, further_generations, trained_in_full
from evo_tune.report.words import fixed, verdict
from evo_tune.store.run import Run
from tests.report.conftest import Made


def ended(best: tuple[float, ...], default: tuple[float, ...], direction: str = "min") -> Closing:
    """Return how a run ended whose best and default have these values over fresh seeds."""
    trials = [Trial(Candidate(id, 0, id, 0, {"x": id}, "-"), Outcome("ok"), id, (0.0,)) for id in (0, 1)]
    calibrated = {"calibrated_best": Calibrated(1, best, 0), "calibrated_default": Calibrated(0, default, 0)}
    counts = dict.fromkeys(("evaluations", "failures", "partial", "pruned"), 9)
    return Closing("loss", direction, trials[1], trials[0], **calibrated, **counts, seconds=1.0)  # type: ignore[arg-type]


UP = math.nextafter


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9, -1.0])
def test_rounding_is_no_spread_between_seeds(scale: float) -> None:
    best = (0.1 * scale, UP(0.1 * scale, 9.0), 0.1 * scale)  # a deterministic evaluator, but for its last bit
    end = ended(best, (0.1 * scale + 0.2 * abs(scale),) * 3)
    assert end.gain_error == 0.0
    assert end.beaten is True
    assert "(no spread between seeds)" in verdict(end)


def test_a_gain_of_rounding_beats_nothing() -> None:
    end = ended((0.1, 0.1, 0.1), (UP(0.1, 1.0),) * 3)
    assert (end.gain, end.gain_error, end.beaten) == (0.0, 0.0, False)
    assert "does not clearly beat" in verdict(end)
    nothing = ended((0.0, 0.0), (0.0, 0.0))
    assert (nothing.gain, nothing.beaten) == (0.0, False)


def test_a_true_spread_is_told_however_small() -> None:
    end = ended((0.1, 0.1 + 2e-9), (0.3, 0.3 + 2e-9))
    assert end.gain_error == pytest.approx(math.sqrt(2) * 1e-9, rel=1e-6)
    assert "standard errors" in verdict(end)
    assert ended((0.9,), (0.8,), "max").beaten is None, "one seed has no spread that could be known"


def test_errors_are_gathered_the_commonest_first(made: Made) -> None:
    run = made(12)
    run.outcomes = {
        id: Outcome(status, error=error)  # type: ignore[arg-type]
        for id, (status, error) in enumerate(
            [("ok", None), ("failed", "a"), ("crashed", "b"), ("pruned", None), ("crashed", "b"), ("failed", "b")]
        )
    }
    assert failures(run) == [("crashed: b", [2, 4]), ("failed: a", [1]), ("failed: b", [5])]


def test_the_hint_to_go_on_asks_for_three_generations_more(promoted: Run) -> None:
    run = promoted
    assert born(run) == len({str(candidate.genome) for candidate in run.candidates})
    assert trained_in_full(run) < len(run.candidates)
    whole, part = divmod(born(run), run.manifest.population)
    assert further_generations(run) == whole + (part > 0) + 3


@pytest.mark.parametrize(("value", "shown"), [(1.5, "1.50000"), (-0.1234567, "-0.12346"), (-1.7e308, "-1.7e+308")])
def test_a_value_has_five_places_unless_it_is_huge(value: float, shown: str) -> None:
    assert fixed(value) == shown
