from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training import Trainer, TrainingWindows
from evo_tune.training.recipe import BatchRamp, Schedule
from evo_tune.training.recipe.optim.schedule import divide_into_steps


@given(
    total=st.integers(1, 3000),
    batch=st.integers(1, 60),
    start=st.integers(1, 60),
    fraction=st.floats(0.001, 1.0),
)
def test_steps_are_those_counted_one_by_one(total: int, batch: int, start: int, fraction: float) -> None:
    ramp = BatchRamp(start=min(start, batch), fraction=fraction)
    bounds = divide_into_steps(total, batch, ramp)
    done = 0
    sizes = []
    while done < total:
        size = ramp.size(done, batch=batch, total=total)
        assert bounds[len(sizes)] == (done, min(total, done + size))
        sizes.append(size)
        done = min(total, done + size)
    assert len(bounds) == len(sizes)
    assert sizes == sorted(sizes)  # it only grows
    assert sizes[0] == min(start, batch)
    assert max(sizes) <= batch
    assert bounds[len(sizes)] == bounds[len(sizes) + 5] == (total, total)


def test_without_a_ramp_all_steps_are_alike() -> None:
    bounds = divide_into_steps(23, 5, None)
    assert [bounds[step] for step in range(len(bounds))] == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    assert divide_into_steps(23, 5, BatchRamp(start=5)) == bounds


def test_a_size_between_two_numbers_is_rounded_down() -> None:
    assert BatchRamp(start=1, fraction=1.0).size(5, batch=4, total=10) == 2  # of 2.5


def test_the_ramp_of_v3() -> None:
    ramp, total = BatchRamp(start=3072, fraction=0.469 / 14.8), 14_800_000_000 // 4
    assert ramp.size(0, batch=15360, total=total) == 3072
    half = 1 + int(0.5 * 0.469 / 14.8 * total)
    assert ramp.size(half, batch=15360, total=total) == 9216
    assert ramp.size(2 * half + 2, batch=15360, total=total) == 15360


@settings(max_examples=20)
@given(total=st.integers(1, 120), start=st.integers(1, 16), micro=st.integers(1, 5), fraction=st.floats(0.05, 1.0))
def test_a_ramp_sees_the_same_windows_in_the_same_order(total: int, start: int, micro: int, fraction: float) -> None:
    text = torch.arange(300, dtype=torch.int32)
    ramp = BatchRamp(start=start, fraction=fraction)
    plain, growing = (
        TrainingWindows(text, context=8, batch=16, total=total, seed=1, micro_batch=micro, ramp=given_)
        for given_ in (None, ramp)
    )

    def order(source: TrainingWindows) -> list[int]:
        return [int(row[0]) for step in range(source.steps) for x, _ in source.window(step) for row in x]

    assert order(plain) == order(growing)
    assert growing.steps >= plain.steps
    assert all(len(x) <= micro for step in range(growing.steps) for x, _ in growing.window(step))
    with pytest.raises(RecipeError, match="step"):
        growing.window(growing.steps)


def test_a_training_with_a_ramp_counts_right_and_resumes_to_the_bit(
    make_trainer: Callable[..., Trainer], text: torch.Tensor
) -> None:
    source = TrainingWindows(
        text, context=8, batch=16, total=130, seed=3, micro_batch=2, ramp=BatchRamp(start=2, fraction=0.5)
    )

    def made() -> Trainer:
        trainer = make_trainer(steps=source.steps, dropout=0.1)
        trainer.source = source
        return trainer

    straight, first, second = made(), made(), made()
    log: list[int] = []
    straight.run(source.steps, lambda step: log.append(step.targets))
    assert sum(log) == straight.targets == 130 * 8
    assert log[0] == 2 * 8
    assert log[-2] == 16 * 8
    assert len(log) == source.steps > 9  # 9 = ⌈130 / 16⌉
    first.run(source.steps // 2)
    second.restore(first.state())
    second.run(source.steps)
    assert second.targets == straight.targets
    for expected, given_ in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(expected, given_)
    assert isinstance(straight.recipe.schedule, Schedule)
