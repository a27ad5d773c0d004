"""What is promised of a training on a GPU: `pytest -m gpu` on the day that there is one.

Each property is asked of the CPU too, as far as it goes there, so that none fails for a typing error on the day.
`benchmarks/gpu.py` has the figures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from evo_tune.training import GPT, Diverged, Muon, Precision, Ranks, Trainer, launch, measure_peak_memory, reproducible
from evo_tune.training.hardware.distributed import weight_hash
from evo_tune.training.recipe import GPTConfig, predict_memory
from tests.training.ranks_program import trainer_of

Make = Callable[..., Trainer]


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param != "cpu" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here (torch.cuda.is_available() is False)")
    with reproducible(1, request.param):
        yield request.param


def on(device: str, trainer: Trainer, late: int | None = None, **recipe: Any) -> Trainer:
    """Return the same training on a device; recipes may differ."""
    model = copy.deepcopy(trainer.model).to(device)
    made = replace(trainer.recipe, **recipe)
    return Trainer(model, trainer.source, made, seed=trainer.seed, device=device, late=late)


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in trainer.parameters])


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Have CUDA raise where the host waits for it."""
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_the_host_waits_for_nothing_in_a_step(device: str, optimizer: str, make_trainer: Make) -> None:
    made = make_trainer(optimizer=optimizer, dropout=0.1, window=4, recipe={"ema": 0.9})
    trainer = on(device, made, late=8 if device == "cpu" else None)
    assert trainer.late == 8
    trainer.run(3)  # what is done once may wait
    trainer.feed.prepare(trainer.source, 3)
    with no_waiting(device):
        for _ in range(4):
            assert trainer.advance(True) == []
    assert [step.number for step in trainer.catch_up()] == [3, 4, 5, 6]


def test_the_hash_of_weights_is_that_of_a_cpu_and_waits_for_nothing(device: str, make_trainer: Make) -> None:
    tensors = [parameter.detach() for parameter in make_trainer().parameters] + [torch.arange(200_000).float()]
    on_device = [tensor.to(device) for tensor in tensors]
    with no_waiting(device):
        result = weight_hash(on_device)
    assert int(result) == int(weight_hash(tensors))


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_reading_late_changes_no_bit(device: str, optimizer: str, make_trainer: Make) -> None:
    if device == "cpu" and optimizer == "sgd":
        pytest.skip("on a CPU nobody reads late under SGD, which torch has not fused there by default")
    made = make_trainer(optimizer=optimizer, dropout=0.1, clip=0.3, recipe={"ema": 0.9})
    at_once, late = on(device, made, late=0), on(device, made, late=8)
    logs: list[list[Any]] = [[], []]
    for trainer, log in zip((at_once, late), logs, strict=True):
        trainer.run(12, log.append)
    assert logs[0] == logs[1]
    assert torch.equal(weights(at_once), weights(late))


def test_it_trains_as_a_cpu_does(device: str, make_trainer: Make) -> None:
    made = make_trainer(dropout=0.1, clip=0.3)
    reference, trainer = on("cpu", made), on(device, made)
    losses: list[list[float]] = [[], []]
    for one, log in zip((reference, trainer), losses, strict=True):
        one.run(12, lambda step, log=log: log.append(step.loss))  # type: ignore[misc]
    # Not with the same dropout: each kind of device draws its own noise.
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
def test_losses_fall_in_each_precision(device: str, name: str, make_trainer: Make) -> None:
    if name == "tf32" and (device == "cpu" or torch.cuda.get_device_capability() < (8, 0)):
        pytest.skip("TF32 is a GPU's from compute capability 8.0 on")
    trainer = on(device, make_trainer(lr=1e-2), precision=Precision(name=name))
    seen: list[float] = []
    trainer.run(20, lambda step: seen.append(step.loss))
    assert sum(seen[-3:]) < sum(seen[:3])
    assert all(p.dtype == torch.float32 for p in trainer.parameters)


def test_what_diverges_is_found_with_the_weights_before_it(device: str, make_trainer: Make) -> None:
    made = make_trainer()
    plain, lost = on(device, made), on(device, made, late=8)
    plain.run(5)
    passes = 0

    def spoil(module: torch.nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return out * torch.nan if passes == 6 else out

    lost.model.register_forward_hook(spoil)
    with pytest.raises(Diverged, match="at step 5"):
        lost.run(20)
    assert torch.equal(weights(plain), weights(lost))


def test_a_scale_that_is_too_large_only_leaves_steps_out(device: str, make_trainer: Make) -> None:
    recipe = {"precision": Precision(name="fp16", initial_scale=2.0**30), "optimizer": Muon(lr=3e-3)}
    trainer = on(device, make_trainer(ffn_mult=2.0), late=8, **recipe)
    trainer.run(20)
    assert 0 < trainer.overflows < 20
    assert torch.isfinite(weights(trainer)).all()


def test_a_step_that_is_too_large_goes_on_in_smaller_passes(device: str, make_trainer: Make) -> None:
    trainer, plain = on(device, make_trainer(batch=8)), on(device, make_trainer(batch=8))

    def limited(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.model.register_forward_pre_hook(limited)
    trainer.run(3)
    plain.run(3)
    assert trainer.parts == 2
    assert torch.allclose(weights(trainer), weights(plain), atol=1e-4)


def test_memory_is_predicted_within_the_factor_that_is_set_aside(device: str, make_trainer: Make) -> None:
    wide = {"depth": 4, "width": 256, "heads": 4, "vocab_size": 16} if device != "cpu" else {}
    trainer = on(device, make_trainer(batch=64, **wide))
    config: GPTConfig = trainer.model.config  # type: ignore[assignment]
    predicted = predict_memory(config, 64, device=torch.device(device).type)
    took = measure_peak_memory(device, lambda: trainer.run(2))
    assert (took is None) == (device == "cpu")
    if took is not None:
        assert took < 2.0 * (predicted.peak - predicted.context)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"window": 32}, {"boundary": 3}, {"window": 32, "boundary": 3}])
def test_windows_and_documents_by_flex_attention_are_those_of_masks(options: dict[str, int]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here (torch.cuda.is_available() is False)")
    config = GPTConfig(vocab_size=16, context=256, depth=2, width=64, heads=2, **options)
    plain, compiled = GPT(config, seed=1).cuda(), GPT(config, seed=1).cuda()
    from evo_tune.training.stepping.compiling import compile_blocks

    compile_blocks(compiled)
    assert compiled.flex
    tokens = torch.randint(0, 16, (2, 256), device="cuda")
    for model in (plain, compiled):
        model(tokens).square().mean().backward()
    for mine, theirs in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-2, atol=1e-5)


def one_of_two(ranks: Ranks, tell: Callable[[Any], None]) -> float:
    """Train together; the ranks compare their weights themselves."""
    del tell
    trainer = trainer_of(ranks)
    trainer = Trainer(
        copy.deepcopy(trainer.model).to(ranks.device),
        trainer.source,
        trainer.recipe,
        device=str(ranks.device),
        ranks=ranks,
    )
    trainer.run(3)
    ranks.compare(trainer.model, 3)
    return float(weights(trainer).norm())


@pytest.mark.gpu
def test_two_cards_hold_the_same_weights() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"NCCL wants a GPU for each rank, and torch sees {torch.cuda.device_count()}")
    assert launch(one_of_two, {}, ranks=2, device="cuda", threads=1) > 0.0
