"""The ladder: sizes in order, each with its births, as long as the best loss falls enough for each doubling."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest

from evo_tune.errors import OptionError
from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate, Minimize, Outcome
from evo_tune.strategies.ladder import Ladder, parse_sizes
from tests.strategies.simulate import Simulation

SPACE = SearchSpace(
    lr=Float(1e-4, 1e-1, log=True), depth=Int(1, 8), width=Choice((32, 64, 128, 256), ordered=True), wd=Float(0, 1)
)
SIZES = "1x32,2x64,4x128,8x256"


def losing(gain: float, last: float = 0.0) -> Callable[[Candidate], Outcome]:
    """Return a landscape in which each doubling of depth · width² gains so much; the last rung gains `last`."""

    def evaluate(candidate: Candidate) -> Outcome:
        genome = candidate.genome
        doublings = math.log2(int(genome["depth"]) * int(genome["width"]) ** 2 / 1024)
        best = 5.0 - gain * min(doublings, 6.0) - last * max(0.0, doublings - 6.0)
        return Outcome("ok", {"loss": best + 1e-3 * (math.log10(float(genome["lr"])) + 2.0) ** 2})

    return evaluate


def climb(strategy: Ladder, evaluate: Callable[[Candidate], Outcome], **given: object) -> Simulation:
    return Simulation(strategy, SPACE, [Minimize("loss")], evaluate, births=60, **given).run()  # type: ignore[arg-type]


def sizes_of(run: Simulation) -> list[str]:
    """Return the sizes in order of birth, without the default genome."""
    return [f"{c.genome['depth']}x{c.genome['width']}" for c in run.candidates[1:]]


@pytest.mark.parametrize("slots", [1, 4])
def test_it_climbs_while_size_pays_and_then_stays(slots: int) -> None:
    ladder = Ladder(population=4, sizes=SIZES, trials=7, threshold=0.05)
    run = climb(ladder, losing(0.1, last=0.01), slots=slots)
    assert sizes_of(run) == ["1x32"] * 7 + ["2x64"] * 7 + ["4x128"] * 7 + ["8x256"] * (59 - 21)
    told = ladder.status(run.history)
    assert "4x128" in told
    assert "stopped at rung 8x256: gain 0.0" in told
    assert "per doubling is below 0.05" in told


def test_it_stops_at_once_where_size_does_not_pay_and_goes_back_to_the_best_rung() -> None:
    ladder = Ladder(population=4, sizes=SIZES, trials=7, threshold=0.05)
    run = climb(ladder, losing(-0.1))
    assert sizes_of(run) == ["1x32"] * 7 + ["2x64"] * 7 + ["1x32"] * 45
    assert "stopped at rung 2x64: gain -0.1" in ladder.status(run.history)
    assert all(run.candidates[id].genome["depth"] == 1 for id in ladder.survivors(run.history))


def test_the_search_continues_on_the_last_rung() -> None:
    ladder = Ladder(population=4, sizes=SIZES, trials=7, threshold=0.05)
    run = climb(ladder, losing(0.1, last=0.1))
    assert "reached the last rung 8x256" in ladder.status(run.history)
    assert sizes_of(run)[-1] == "8x256"


def test_a_rung_begins_with_the_best_of_the_one_before() -> None:
    run = climb(Ladder(population=6, sizes=SIZES, trials=10, threshold=0.05), losing(0.1))
    first = [c for c in run.candidates if c.operator == "climb"]
    assert [f"{c.genome['depth']}x{c.genome['width']}" for c in first] == [
        size for size in ("2x64", "4x128", "8x256") for _ in range(3)
    ]
    trials = {trial.id: trial for trial in run.history.trials}
    for child in first:
        (parent,) = child.parents
        assert {**child.genome, "depth": 0, "width": 0} == {**run.candidates[parent].genome, "depth": 0, "width": 0}
    tenth = sorted((trials[id] for id in range(1, 11)), key=lambda trial: trial.losses or ())
    assert [c.parents[0] for c in first[:3]] == [trial.id for trial in tenth[:3]]


def test_later_results_do_not_change_the_decision_on_a_rung() -> None:
    ladder = Ladder(population=4, sizes=SIZES, trials=7, threshold=0.05)
    bad = losing(0.0)

    def lucky(candidate: Candidate) -> Outcome:
        outcome = bad(candidate)
        return Outcome("ok", {"loss": outcome.metrics["loss"] - (3.0 if candidate.id > 30 else 0.0)})

    run = climb(ladder, lucky)
    assert set(sizes_of(run)) == {"1x32", "2x64"}
    assert "stopped at rung 2x64" in ladder.status(run.history)


def test_a_rung_without_results_ends_the_climb() -> None:
    ladder = Ladder(population=4, sizes=SIZES, trials=7, threshold=0.05)
    good = losing(0.1)
    run = climb(ladder, lambda c: good(c) if c.genome["depth"] < 4 else Outcome("out_of_memory", error="too large"))
    assert set(sizes_of(run)) == {"1x32", "2x64", "4x128"}
    assert sizes_of(run)[-1] == "2x64"
    run = climb(ladder, lambda c: good(c) if c.genome["depth"] > 1 else Outcome("failed", error="too small"))
    assert set(sizes_of(run)) == {"1x32", "2x64", "4x128", "8x256"}


def test_a_small_rung_is_judged_by_all_its_genomes() -> None:
    space = SearchSpace(kind=Choice(("a", "b", "c")), depth=Int(1, 2), width=Int(8, 16, step=8))
    ladder = Ladder(population=4, sizes="1x8,2x16", trials=7, threshold=0.0)
    run = Simulation(ladder, space, [Minimize("loss")], lambda c: Outcome("ok", {"loss": 1.0 / int(c.genome["width"])}))
    assert sorted(sizes_of(run.run()))[:3] == ["1x8"] * 3
    assert len(run.candidates) in (6, 7)  # the default may be of neither size


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ("2x64,4", "expected DEPTHxWIDTH"),
        ("big", "expected DEPTHxWIDTH"),
        ("0x64", "expected DEPTHxWIDTH"),
        ("4x64,2x64", "2x64 is not larger than 4x64"),
        ("2x64,2x64", "is not larger"),
    ],
)
def test_unreadable_sizes_are_refused_with_the_reason(sizes: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_sizes(sizes)
    with pytest.raises(OptionError, match=said):
        Ladder(sizes=sizes)


def test_a_space_without_the_sizes_is_refused() -> None:
    goals = [Minimize("loss")]
    assert "needs -s sizes" in Ladder().unsuited(SPACE, goals)
    assert "the evaluator has no width" in Ladder(sizes=SIZES).unsuited(SearchSpace(depth=Int(1, 3)), goals)
    reason = Ladder(sizes="9x32").unsuited(SPACE, goals)
    assert re.search(r"rung 9x32: depth 9 is not allowed: .* from 1 to 8; .*--gene depth=", reason)
    shrinking = SearchSpace(lambda genome: {**genome, "width": 8}, depth=Int(1, 3), width=Int(8, 16))
    assert "repair does not leave it alone" in Ladder(sizes="1x16").unsuited(shrinking, goals)
    assert not Ladder(sizes=SIZES).unsuited(SPACE, goals)
    assert "optimises one objective" in Ladder(sizes=SIZES).unsuited(SPACE, [*goals, Minimize("params")])
