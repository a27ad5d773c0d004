"""A host that reads late what became of a step trains the same model as one that looks first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import (
    IGNORE,
    AdamW,
    Diverged,
    Epochs,
    Muon,
    Precision,
    Trainer,
    TrainingWindows,
    load_checkpoint,
    save_checkpoint,
)
from evo_tune.training.hardware.device import MicroBatch
from evo_tune.training.recipe.data.images import Augmentation
from evo_tune.training.stepping.feeding import Feed, step_unless

Make = Callable[..., Trainer]


def later(trainer: Trainer, steps: int = 5) -> Trainer:
    """Return the same training by a host that reads so many steps late."""
    return Trainer(trainer.model, trainer.source, trainer.recipe, seed=trainer.seed, late=steps)


def same(first: Trainer, second: Trainer) -> bool:
    pairs = [(first.model, second.model)]
    if first.averaged is not None and second.averaged is not None:
        pairs.append((first.averaged, second.averaged))
    return all(
        torch.equal(tensor, theirs.state_dict()[name])
        for mine, theirs in pairs
        for name, tensor in mine.state_dict().items()
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_and_steps_are_the_same_to_the_bit(optimizer: str, make_trainer: Make) -> None:
    given: dict[str, Any] = {
        "optimizer": optimizer,
        "clip": 0.2,
        "dropout": 0.1,
        "recipe": {"ema": 0.9},
    }
    plain, late = make_trainer(**given), later(make_trainer(**given))
    logs: list[list[Any]] = [[], []]
    for trainer, log in zip((plain, late), logs, strict=True):
        trainer.run(20, log.append)
    assert logs[0] == logs[1]
    assert {step.clipped for step in logs[0]} == {True}
    assert same(plain, late)
    assert (plain.targets, plain.clipped, plain.watch.state()) == (late.targets, late.clipped, late.watch.state())


def test_steps_become_known_late_and_in_order(make_trainer: Make) -> None:
    trainer = later(make_trainer(), 3)
    known = [[step.number for step in trainer.advance()] for _ in range(5)]
    assert known == [[], [], [], [0], [1]]
    assert [step.number for step in trainer.catch_up()] == [2, 3, 4]
    assert trainer.train_step().number == 5


def test_a_checkpoint_waits_for_all_steps(make_trainer: Make, tmp_path: Path) -> None:
    plain, late = make_trainer(recipe={"ema": 0.9}), later(make_trainer(recipe={"ema": 0.9}))
    for _ in range(7):
        late.advance()
    save_checkpoint(tmp_path / "late", late.state())
    again = later(make_trainer(recipe={"ema": 0.9}))
    again.restore(load_checkpoint(tmp_path / "late"))
    assert (again.step, again.targets) == (7, 7 * 4 * 8)
    plain.run(20)
    again.run(20)
    assert same(plain, again)


class WithHole:
    """A source of which one step has no targets but padding."""

    def __init__(self, source: Any, hole: int) -> None:
        self.source, self.hole = source, hole

    def window(self, step: int) -> Sequence[MicroBatch]:
        window: list[MicroBatch] = self.source.window(step)
        return [(x, torch.full_like(y, IGNORE)) for x, y in window] if step == self.hole else window


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_diverged_is_found_late_with_the_weights_before_it(where: str, optimizer: str, make_trainer: Make) -> None:
    plain, late = (
        make_trainer(optimizer=optimizer, recipe={"ema": 0.5}),
        make_trainer(optimizer=optimizer, recipe={"ema": 0.5}),
    )
    late = later(late)
    plain.run(6)
    passes = 0

    def spoil(module: torch.nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        bad = passes == 7
        if where == "gradient":
            if bad:
                out.register_hook(lambda gradient: gradient * torch.inf)
            return out
        return out * torch.nan if bad else out

    late.model.register_forward_hook(spoil)
    seen: list[int] = []
    with pytest.raises(Diverged, match=rf"{where}.* at step 6"):
        late.run(20, lambda step: seen.append(step.number))
    assert passes > 7  # steps were sent after it
    assert seen == list(range(6))
    assert late.step == 6
    assert late.averaged is not None
    late.averaged.n_averaged.fill_(int(plain.averaged.n_averaged))  # type: ignore[union-attr]
    assert same(plain, late)


def test_a_step_that_overflows_is_left_out(make_trainer: Make) -> None:
    recipe = {"precision": Precision(name="fp16", initial_scale=2.0**30), "ema": 0.9}
    trainer = later(make_trainer(recipe=recipe, ffn_mult=2.0), 3)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    seen: list[Any] = []
    trainer.advance()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    trainer.run(20, seen.append)
    assert trainer.scaler is not None
    assert 1 < trainer.overflows < 20
    assert trainer.scaler.get_scale() == 2.0 ** (30 - trainer.overflows)
    moments = {state["step"].item() for state in trainer.optimizer.state.values()}
    assert moments == {20.0 - trainer.overflows}
    assert len(seen) == 20
    assert not any(step.clipped for step in seen[: trainer.overflows])
    assert trainer.clipped == sum(step.clipped for step in seen)
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    assert seen[-1].loss < seen[0].loss


@pytest.mark.parametrize("options", [AdamW(lr=0.1), Muon(lr=0.1)], ids=["adamw", "muon"])
def test_a_refused_step_changes_neither_weights_nor_moments(options: AdamW | Muon) -> None:
    layer = torch.nn.Linear(4, 4)
    optimizer = options.build(layer)

    def step(gradient: float, refused: bool) -> list[torch.Tensor]:
        for weight in layer.parameters():
            weight.grad = torch.full_like(weight, gradient)
        step_unless(torch.tensor(refused), optimizer)
        parts = getattr(optimizer, "optimizers", [optimizer])
        moments = [value for part in parts for state in part.state.values() for value in state.values()]
        return [tensor.detach().clone() for tensor in (*layer.parameters(), *moments)]

    before, after = step(1.0, refused=False), step(torch.nan, refused=True)
    assert len(before) > 2
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("late", [0, 5])
def test_a_step_without_targets_is_an_error(late: int, make_trainer: Make) -> None:
    trainer, other = later(make_trainer(), late), make_trainer()
    trainer.source = WithHole(trainer.source, hole=2)
    with pytest.raises(RecipeError, match="targets"):
        trainer.run(5)
    other.run(2)
    assert trainer.step == 2
    assert same(trainer, other)


# ---------------------------------------------------------------- how samples come


def test_a_text_that_lives_elsewhere_gives_the_same_windows(text: torch.Tensor) -> None:
    """As far as a CPU shows it: on the meta device shapes and counts."""
    source = TrainingWindows(text, context=8, batch=4, total=22, seed=3, micro_batch=3)
    away = TrainingWindows(text, context=8, batch=4, total=22, seed=3, micro_batch=3)
    feed = Feed(torch.device("meta"))
    for step in range(source.steps):
        fed, window = feed(away, step), source.window(step)
        assert away.tokens.device.type == "meta"
        assert [(x.shape, y.shape) for x, y in fed.window] == [(x.shape, y.shape) for x, y in window]
        assert fed.targets == source.target_count(step) == sum(y.numel() for _, y in window)
        assert [n for part in fed.samples for n in part] == list(range(sum(len(x) for x, _ in window)))


@pytest.mark.parametrize("magnitude", [0, 5])
def test_images_live_elsewhere_but_for_what_is_done_on_the_cpu(magnitude: int) -> None:
    images, classes = torch.zeros(30, 3, 8, 8, dtype=torch.uint8), torch.arange(30) % 3
    given: dict[str, Any] = {"classes": 3, "batch": 8, "total": 70, "seed": 1, "label_smoothing": 0.1, "mixup": 0.3}
    if magnitude:
        pytest.importorskip("torchvision")
    source = Epochs(images, classes, augment=Augmentation(crop=1, flip=True, magnitude=magnitude), **given)
    feed = Feed(torch.device("meta"))
    for step in range(source.steps):
        fed = feed(source, step)
        assert source.inputs.device.type == ("cpu" if magnitude else "meta")
        assert fed.targets == source.target_count(step) == sum(len(x) for x, _ in fed.window)
        assert {x.device.type for x, _ in fed.window} == {"meta"}


def test_the_next_step_is_fetched_once_and_before_it_is_due(text: torch.Tensor) -> None:
    fetched = []

    class Counting(TrainingWindows):
        def window(self, step: int) -> list[MicroBatch]:
            fetched.append(step)
            return super().window(step)

    source = Counting(text, context=8, batch=4, total=40, seed=3)
    feed = Feed(torch.device("meta"))
    feed(source, 0)
    feed.prepare(source, 1)
    assert fetched == [0, 1]
    feed(source, 1)
    assert fetched == [0, 1]
    feed.prepare(source, 2)
    feed(source, 5)  # another one after all
    assert fetched == [0, 1, 2, 5]


def test_a_source_is_not_asked_beyond_its_last_step(make_trainer: Make) -> None:
    trainer = make_trainer(steps=3)
    away = Trainer(trainer.model.to("meta"), trainer.source, trainer.recipe, device="meta", late=8)
    for step in range(3):
        away.advance(step < 2)
    with pytest.raises(RecipeError, match="step"):
        away.source.window(3)


def test_recipes_stay_as_they_are(make_trainer: Make) -> None:
    """When the host reads is no part of what is trained: a checkpoint goes on under either."""
    trainer = make_trainer()
    late = later(trainer)
    assert late.recipe.identity == replace(trainer.recipe).identity
    assert late.state().keys() == trainer.state().keys()
