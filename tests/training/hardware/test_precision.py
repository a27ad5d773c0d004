import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import AdamW, Diverged, Precision, Recipe, Trainer, evaluate, evaluation_windows
from evo_tune.training.recipe import Schedule, WeightDecay


def trainer_in(make_trainer: Callable[..., Trainer], name: str, optimizer: str = "adamw", **options: object) -> Trainer:
    recipe = {"precision": Precision(name=name, **options)}  # type: ignore[arg-type]
    return make_trainer(recipe=recipe, clip=0.05, ffn_mult=2.0, optimizer=optimizer)


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_it_computes_in_less_and_keeps_weights_in_float32(name: str, make_trainer: Callable[..., Trainer]) -> None:
    full, less = make_trainer(clip=0.05, ffn_mult=2.0), trainer_in(make_trainer, name)
    seen = set()
    less.model.blocks[0].ffn.up.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    losses: list[list[float]] = [[], []]
    for trainer, log in zip((full, less), losses, strict=True):
        trainer.run(20, lambda step, log=log: log.append(step.loss))  # type: ignore[misc]
    assert seen == {{"bf16": torch.bfloat16, "fp16": torch.float16}[name]}
    assert all(p.dtype == torch.float32 for p in less.model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0]


def test_the_update_does_not_depend_on_the_scale(make_trainer: Callable[..., Trainer]) -> None:
    """Clipped before they are unscaled, the gradients would be 1024 times smaller in one of the two."""
    updates = []
    for scale in (2.0, 2048.0):
        trainer = trainer_in(make_trainer, "fp16", "sgd", initial_scale=scale)
        before = weights(trainer)
        norms: list[float] = []
        trainer.run(3, lambda step, norms=norms: norms.append(step.norm))  # type: ignore[misc]
        updates.append((weights(trainer) - before, norms))
    (first, second) = (update for update, _ in updates)
    assert float((first - second).norm() / first.norm()) < 0.01
    assert updates[0][1] == pytest.approx(updates[1][1], rel=0.01)


def test_a_step_that_overflows_is_done_again_and_counts_once(make_trainer: Callable[..., Trainer]) -> None:
    sane = trainer_in(make_trainer, "fp16", initial_scale=1024.0)
    trainer = trainer_in(make_trainer, "fp16", initial_scale=2.0**40)
    log: list[list[tuple[int, float]]] = [[], []]
    for one, lines in zip((sane, trainer), log, strict=True):
        one.run(6, lambda step, lines=lines: lines.append((step.number, step.lr)))  # type: ignore[misc]
    assert sane.overflows == 0 < trainer.overflows < 40
    assert trainer.scaler is not None
    assert trainer.scaler.get_scale() == 2.0 ** (40 - trainer.overflows)
    assert log[0] == log[1]  # neither the rate nor the counter moved on
    assert (trainer.step, trainer.targets) == (sane.step, sane.targets)
    moments = [state["step"].item() for state in trainer.optimizer.state.values()]
    assert set(moments) == {6.0}


def test_an_overflow_moves_no_average(make_trainer: Callable[..., Trainer]) -> None:
    recipe = {"precision": Precision(name="fp16", initial_scale=2.0**40), "ema": 0.5}
    trainer = make_trainer(recipe=recipe)
    trainer.run(3)
    assert trainer.overflows > 3
    assert int(trainer.averaged.n_averaged) == 1 + 3  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_no_scale_can_mend_has_diverged(name: str, where: str, make_trainer: Callable[..., Trainer]) -> None:
    trainer = trainer_in(make_trainer, name)
    trainer.run(2)
    before = weights(trainer).clone()
    if where == "loss":
        trainer.model.register_forward_hook(lambda module, args, out: out * torch.nan)
    else:
        trainer.model.norm.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(Diverged, match=where):
        trainer.run(3)
    assert torch.equal(weights(trainer), before)


def test_devices_that_do_not_compute_in_it_are_refused() -> None:
    recipe = {
        name: Recipe(
            optimizer=AdamW(lr=1e-3),
            schedule=Schedule(steps=1),
            weight_decay=WeightDecay(start=0.0),
            precision=Precision(name=name),
        )
        for name in ("fp32", "bf16", "fp16")
    }
    model = torch.nn.Linear(2, 2)
    for name in ("bf16", "fp16"):
        with pytest.raises(RecipeError, match="precision"):
            Trainer(model, None, recipe[name], device="meta")  # type: ignore[arg-type]
    Trainer(model, None, recipe["fp32"], device="meta")  # type: ignore[arg-type]


def test_a_gpu_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(RecipeError, match="bf16"):
        Precision(name="bf16").check_device(torch.device("cuda"))
    Precision(name="fp16").check_device(torch.device("cuda"))


@pytest.mark.parametrize("options", [{"name": "fp8"}, {"name": None}, {"initial_scale": 0.5}, {"growth_interval": 0}])
def test_fields_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        Precision(**options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_in_bf16_trainings_end_where_those_in_float32_do(
    make_trainer: Callable[..., Trainer], text: torch.Tensor
) -> None:
    """Same ranks, and far nearer than two seeds are."""
    windows = evaluation_windows(text, context=8, count=256)
    shapes = [{"lr": lr, "width": width} for lr in (3e-4, 2e-3, 1e-2) for width in (16, 32)]

    def losses(name: str, seed: int) -> list[float]:
        recipe = {"precision": Precision(name=name)}
        trainers = [make_trainer(steps=24, seed=seed, init="fan_in", dropout=0.1, recipe=recipe, **s) for s in shapes]
        for trainer in trainers:
            trainer.run(24)
        return [evaluate(trainer.model, windows).loss for trainer in trainers]

    exact, low, other = losses("fp32", 1), losses("bf16", 1), losses("fp32", 2)
    differences, noise = (
        statistics.median(abs(a - b) for a, b in zip(exact, them, strict=True)) for them in (low, other)
    )
    assert 0 < differences < 0.2 * noise
    ranks = [np.argsort(np.argsort(values)) for values in (exact, low)]
    assert np.corrcoef(*ranks)[0, 1] > 0.9  # of six, one pair of neighbours may change places
