from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training import IGNORE, TrainingWindows, evaluation_windows


def numbered(n: int) -> torch.Tensor:
    """A text in which each token is its own position."""
    return torch.arange(n, dtype=torch.int32)


def starts(windows: TrainingWindows, steps: range) -> list[int]:
    return [int(row[0]) for step in steps for inputs, _ in windows.window(step) for row in inputs]


@given(
    n=st.integers(20, 400),
    context=st.integers(1, 19),
    batch=st.integers(1, 9),
    total=st.integers(1, 60),
    micro_batch=st.one_of(st.none(), st.integers(1, 9)),
)
def test_windows_are_pieces_of_the_text_and_every_one_is_there(
    n: int, context: int, batch: int, total: int, micro_batch: int | None
) -> None:
    made = TrainingWindows(numbered(n), context=context, batch=batch, total=total, seed=1, micro_batch=micro_batch)
    seen = 0
    for step in range(made.steps):
        for inputs, targets in made.window(step):
            assert inputs.dtype == targets.dtype == torch.int64
            assert inputs.shape == targets.shape
            assert len(inputs) <= (micro_batch or batch)
            assert torch.equal(targets, inputs + 1)
            assert torch.equal(inputs, inputs[:, :1] + torch.arange(context))
            seen += len(inputs)
    assert seen == total
    assert made.steps == -(-total // batch)


@given(n=st.integers(60, 300), context=st.integers(1, 19), seed=st.integers(0, 2**32 - 1))
def test_an_epoch_visits_the_text_once_and_the_next_in_another_order(n: int, context: int, seed: int) -> None:
    size = TrainingWindows(numbered(n), context=context, batch=1, total=1, seed=seed).epoch_windows
    made = TrainingWindows(numbered(n), context=context, batch=size, total=3 * size, seed=seed)
    epochs = [starts(made, range(epoch, epoch + 1)) for epoch in range(3)]
    for epoch in epochs:
        assert Counter((start - epoch[0]) % context for start in epoch) == {0: size}
        assert len(set(epoch)) == size
        assert size * context >= n - 2 * context - 1
    if size > 5:
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_epochs_begin_at_every_offset_within_a_window() -> None:
    source = TrainingWindows(numbered(41), context=4, batch=9, total=9 * 40, seed=1)
    assert source.epoch_windows == 9
    assert {starts(source, range(epoch, epoch + 1))[0] % 4 for epoch in range(40)} == {0, 1, 2, 3}


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    def make(seed: int) -> TrainingWindows:
        return TrainingWindows(numbered(200), context=8, batch=5, total=100, seed=seed)

    forward = [make(1).window(step) for step in range(20)]
    backward = make(1)
    for step in reversed(range(20)):
        for (x, y), (u, v) in zip(backward.window(step), forward[step], strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
    assert starts(make(1), range(20)) != starts(make(2), range(20))


def test_bad_windows_are_refused() -> None:
    good = {"context": 8, "batch": 2, "total": 10, "seed": 1}
    for field, value in (("context", 0), ("batch", 0), ("total", 0), ("micro_batch", 0), ("batch", 1.5)):
        with pytest.raises(RecipeError, match=field):
            TrainingWindows(numbered(20), **{**good, field: value})  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="context"):
        TrainingWindows(numbered(8), **good)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="step"):
        TrainingWindows(numbered(20), **good).window(5)  # type: ignore[arg-type]


def scored(windows: tuple[torch.Tensor, torch.Tensor]) -> list[int]:
    return sorted(windows[1][windows[1] != IGNORE].tolist())


@given(n=st.integers(2, 500), count=st.integers(1, 600), block=st.integers(1, 64), context=st.integers(1, 80))
def test_the_tokens_scored_do_not_depend_on_the_context(n: int, count: int, block: int, context: int) -> None:
    made = evaluation_windows(numbered(n), context=context, count=count, block=block)
    assert scored(made) == scored(evaluation_windows(numbered(n), context=1, count=count, block=block))
    inputs, targets = made
    valid = targets != IGNORE
    assert torch.equal(inputs[valid] + 1, targets[valid])
    assert len(set(scored(made))) == len(scored(made)) >= min(block, n - 1)
    assert len(scored(made)) <= max(count + block, block)


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(RecipeError, match="two tokens"):
        evaluation_windows(numbered(1), context=4, count=4)


def test_tokens_beyond_int16_are_read_from_its_bits() -> None:
    text = torch.arange(40_000, 40_100)
    bits = text.to(torch.int32).to(torch.int16)
    made = [TrainingWindows(tokens, context=8, batch=4, total=8, seed=1).window(1) for tokens in (text, bits)]
    for one, other in zip(*made, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    for one, other in zip(*(evaluation_windows(tokens, context=8, count=50) for tokens in (text, bits)), strict=True):
        assert torch.equal(one, other)
