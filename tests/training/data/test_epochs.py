"""Epochs, label smoothing and mixup: every sample once an epoch, and pure functions of seed and step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evo_tune.errors import RecipeError
from evo_tune.training import Epochs, accumulate
from evo_tune.training.data.batches import mix, soft_targets
from evo_tune.training.optim.losses import CrossEntropy


def epochs(n: int = 10, batch: int = 4, total: int = 25, seed: int = 1, **options: object) -> Epochs:
    inputs = torch.arange(n, dtype=torch.float32)[:, None]
    return Epochs(inputs, torch.arange(n) % 3, classes=3, batch=batch, total=total, seed=seed, **options)  # type: ignore[arg-type]


def test_samples_and_counted_targets_of_each_step() -> None:
    counts = torch.tensor([2, 0, 1, 2, 2, 1, 0, 2, 1, 1])
    source = epochs(target_counts=counts)
    samples = 0
    for step in range(source.steps):
        assert source.samples_before(step) == samples
        rows = seen(source, step)
        assert source.target_count(step) == int(counts[rows].sum())
        samples += len(rows)
    assert source.samples_before(source.steps) == samples == 25


def seen(source: Epochs, step: int) -> list[int]:
    return [int(x) for inputs, _ in source.window(step) for x in inputs]


@given(n=st.integers(1, 30), batch=st.integers(1, 40), total=st.integers(1, 100), seed=st.integers(0, 5))
def test_each_epoch_visits_every_sample_once_and_the_last_batch_is_what_is_left(
    n: int, batch: int, total: int, seed: int
) -> None:
    source = epochs(n, batch, total, seed)
    steps = [seen(source, step) for step in range(source.steps)]
    order = [sample for step in steps for sample in step]
    assert len(order) == total
    for first in range(0, total, n):
        part = order[first : first + n]
        assert len(set(part)) == len(part)
    assert all(0 < len(step) <= batch for step in steps)
    with pytest.raises(RecipeError, match="step"):
        source.window(source.steps)


def test_a_step_depends_on_seed_and_number_only() -> None:
    one, other = epochs(mixup=0.4), epochs(mixup=0.4)
    forward = [one.window(step) for step in range(one.steps)]
    backward = [other.window(step) for step in reversed(range(one.steps))][::-1]
    for (mine,), (theirs,) in zip(forward, backward, strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])
    assert seen(epochs(seed=1), 0) + seen(epochs(seed=1), 1) != seen(epochs(seed=2), 0) + seen(epochs(seed=2), 1)
    assert seen(epochs(), 0) != seen(epochs(), 3)  # another epoch, another order


def test_micro_batches_are_the_step_in_pieces() -> None:
    whole, pieces = (
        epochs(batch=7, mixup=0.5, label_smoothing=0.1),
        epochs(batch=7, mixup=0.5, label_smoothing=0.1, micro_batch=3),
    )
    assert [len(inputs) for inputs, _ in pieces.window(0)] == [3, 3, 1]
    for part in (0, 1):
        assert torch.equal(torch.cat([micro[part] for micro in pieces.window(0)]), whole.window(0)[0][part])


@given(smoothing=st.floats(0.0, 0.9), classes=st.integers(2, 5))
def test_smoothed_targets_give_the_loss_that_torch_smooths(smoothing: float, classes: int) -> None:
    logits = torch.randn(6, classes, generator=torch.Generator().manual_seed(classes))
    targets = torch.arange(6) % classes
    soft = soft_targets(targets, classes, smoothing)
    assert torch.allclose(soft.sum(1), torch.ones(6))
    expected = nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    loss, n = accumulate(Given(logits), [(torch.arange(6), soft)])
    assert n == 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


class Given(nn.Module):
    """Gives the logits of its rows, as a model that knows them by heart."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.logits[rows]


def test_certain_probabilities_are_class_numbers_also_in_ragged_pieces() -> None:
    logits, targets = torch.randn(7, 4), torch.tensor([0, 3, 1, 1, 2, 0, 3])
    plain, soft = Given(logits), Given(logits)
    rows, probabilities = torch.arange(7), soft_targets(targets, 4)
    one = accumulate(plain, [(rows, targets)], loss=CrossEntropy())
    two = accumulate(soft, [(rows[:5], probabilities[:5]), (rows[5:], probabilities[5:])], loss=CrossEntropy())
    assert one[1] == two[1] == 7
    assert torch.allclose(one[0], two[0])
    assert torch.allclose(plain.logits.grad, soft.logits.grad, atol=1e-7)  # type: ignore[arg-type]


@given(alpha=st.floats(0.05, 5.0), seed=st.integers(0, 1000))
def test_mixup_averages_samples_and_targets_alike(alpha: float, seed: int) -> None:
    inputs, targets = torch.eye(5), torch.eye(5)  # a sample is its own target: so it must stay
    mixed, blended = mix(inputs, targets, alpha, seed)
    assert torch.equal(mixed, blended)
    assert torch.allclose(mixed.sum(1), torch.ones(5))
    assert torch.allclose(mixed.sum(0), torch.ones(5), atol=1e-6)  # each is some other's partner once
    assert int((mixed > 0).sum(1).max()) <= 2
    again, _ = mix(inputs, targets, alpha, seed)
    assert torch.equal(again, mixed)


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"total": 0}, {"label_smoothing": 1.0}, {"mixup": -0.1}, {"micro_batch": 0}, {"n": 0}],
)
def test_bounds(options: dict[str, int]) -> None:
    with pytest.raises(RecipeError):
        epochs(**options)
