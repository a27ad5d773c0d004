import math
from collections.abc import Callable

import pytest

from evo_tune.errors import RecipeError
from evo_tune.training import Trainer
from evo_tune.training.recipe import GapDecay, GapDecayState, WeightDecayOptions


def values(watch: GapDecayState, evaluations: list[tuple[float, float]]) -> list[float]:
    seen = []
    for training, held_out in evaluations:
        watch.update(training, held_out)
        seen.append(watch.value)
    return seen


def test_it_rises_after_each_gap_and_stops_at_its_end() -> None:
    watch = GapDecayState(GapDecay(start=0.04, end=0.1, patience=2))
    widening = [(1.0 - 0.1 * n, 2.0 + 0.1 * n) for n in range(8)]
    assert values(watch, widening) == pytest.approx([0.04, 0.04, 0.06, 0.06, 0.09, 0.09, 0.1, 0.1])


@pytest.mark.parametrize(
    "second",
    [(0.9, 2.0), (0.9, 1.9), (1.0, 2.1), (1.1, 2.1), (math.nan, 2.1), (0.9, math.nan)],
)
def test_only_a_rise_with_a_fall_is_a_gap(second: tuple[float, float]) -> None:
    watch = GapDecayState(GapDecay(patience=1))
    assert values(watch, [(1.0, 2.0), second]) == [0.01, 0.01]


def test_a_gap_that_closes_starts_the_count_anew() -> None:
    watch = GapDecayState(GapDecay(patience=2))
    assert set(values(watch, [(1, 2), (0.9, 2.1), (0.8, 2.0), (0.7, 2.1)])) == {0.01}


def test_a_resume_continues_the_count_of_gaps() -> None:
    first, again = (GapDecayState(GapDecay(patience=2)) for _ in range(2))
    assert set(values(first, [(1.0, 2.0), (0.9, 2.1)])) == {0.01}
    again.restore(first.state())
    assert again.update(0.8, 2.2)


def test_the_trainer_writes_it_to_groups_that_decay(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(steps=3, weight_decay=GapDecay(patience=1))
    seen = []
    for held_out in (2.0, 2.1, 2.2):
        trainer.run(trainer.step + 1)
        seen.append([group["weight_decay"] for group in trainer.optimizer.param_groups])
        trainer.gap.update(1.0 / held_out, held_out)
    assert [group[0] for group in seen] == pytest.approx([0.01, 0.01, 0.015])
    assert [group[1] for group in seen] == [0.0] * 3


def test_it_cannot_begin_at_zero() -> None:
    with pytest.raises(RecipeError, match="weight_decay"):
        GapDecay(start=0.0)


@pytest.mark.parametrize(("name", "value"), [("weight_decay_end", 1.5), ("gap_patience", 0)])
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=name):
        WeightDecayOptions(**{"weight_decay_end": 0.1, name: value})  # type: ignore[arg-type]
