from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, IGNORE, Trainer, TrainingWindows, accumulate
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.recipe import GPTConfig
from evo_tune.training.stepping.feeding import Fed

CONFIG = GPTConfig(vocab_size=16, context=12, depth=2, width=16, heads=2)


def gradient(window: list[MicroBatch], dtype: torch.dtype) -> tuple[torch.Tensor, float, int]:
    model = GPT(CONFIG, seed=1).to(dtype)
    loss, n = accumulate(model, window)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([g.flatten() for g in grads]), float(loss), n


def ragged(lengths: list[int]) -> tuple[MicroBatch, list[MicroBatch]]:
    """Return the same samples as one padded batch, and as micro-batches of one, each of its own length."""
    rng = torch.Generator().manual_seed(sum(lengths))
    samples = [torch.randint(0, 16, (length + 1,), generator=rng) for length in lengths]
    inputs = torch.zeros(len(lengths), 12, dtype=torch.long)
    targets = torch.full((len(lengths), 12), IGNORE)
    for row, sample in enumerate(samples):
        inputs[row, : len(sample) - 1] = sample[:-1]
        targets[row, : len(sample) - 1] = sample[1:]
    return (inputs, targets), [(sample[None, :-1], sample[None, 1:]) for sample in samples if len(sample) > 1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_ragged_micro_batches_give_the_gradient_of_one_batch(
    lengths: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    whole, parts = ragged(lengths)
    expected, loss, n = gradient([whole], dtype)
    given_, part_loss, part_n = gradient(parts, dtype)
    assert n == part_n == sum(lengths)
    assert part_loss == pytest.approx(loss, rel=tolerance)
    assert float((given_ - expected).norm() / expected.norm()) < tolerance


def test_the_mean_of_means_is_another_gradient() -> None:
    """What this guards against is not small."""
    whole, parts = ragged([1, 12, 12])
    expected, _, _ = gradient([whole], torch.float64)
    means = sum(gradient([part], torch.float64)[0] for part in parts) / len(parts)
    assert float((means - expected).norm() / expected.norm()) > 0.1


def test_micro_batches_without_targets_are_harmless() -> None:
    _, parts = ragged([5, 7])
    empty = (torch.zeros(1, 12, dtype=torch.long), torch.full((1, 12), IGNORE))
    expected, loss, n = gradient(parts, torch.float64)
    given_, given_loss, given_n = gradient([empty, *parts, empty], torch.float64)
    assert (given_loss, given_n) == (loss, n)
    assert torch.allclose(given_, expected, rtol=0, atol=1e-15)
    with pytest.raises(RecipeError, match="targets"):
        gradient([empty], torch.float64)


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4), parts=st.integers(1, 9))
def test_splitting_keeps_every_sample_in_order(sizes: list[int], parts: int) -> None:
    samples = torch.arange(sum(sizes))[:, None]
    window = [(piece, piece + 100) for piece in samples.split(sizes)]  # type: ignore[no-untyped-call]
    fed = Fed(window, [range(size) for size in sizes], targets=1)
    pieces = fed.split(parts).window
    assert torch.equal(torch.cat([inputs for inputs, _ in pieces]), samples)
    assert all(torch.equal(targets, inputs + 100) for inputs, targets in pieces)
    assert max(len(inputs) for inputs, _ in pieces) == max(-(-size // parts) for size in sizes)


def test_six_windows_by_four_are_two_steps_and_nothing_leaks(
    make_trainer: Callable[..., Trainer], text: torch.Tensor
) -> None:
    trainer = make_trainer(steps=2)
    trainer.source = TrainingWindows(text, context=8, batch=4, total=6, seed=3, micro_batch=1)
    steps = []
    trainer.run(2, steps.append)
    assert [step.targets for step in steps] == [32, 16]
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_a_training_in_micro_batches_is_the_same_training(
    micro_batch: int, make_trainer: Callable[..., Trainer]
) -> None:
    whole, parts = make_trainer(), make_trainer(micro_batch=micro_batch)
    for trainer in (whole, parts):
        trainer.model.double()
        trainer.run(20)
    for expected, given_ in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(given_, expected, rtol=0, atol=1e-12)
