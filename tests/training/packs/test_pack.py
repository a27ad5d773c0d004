"""Trainings that are trained as one are each its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evo_tune.errors import RecipeError
from evo_tune.training import (
    Diverged,
    GapDecay,
    Muon,
    Pack,
    Precision,
    Trainer,
    load_checkpoint,
    reproducible,
    save_checkpoint,
)
from evo_tune.training.models.transfer.rules import Parametrisation
from evo_tune.training.packs.packed_gpt import PackedGPT
from tests.training.packs.conftest import RECIPES, apart, numbers

Make = Callable[..., list[Trainer]]
WIDER = {"scaling": Parametrisation(name="mup", width=8, depth=1, head=4)}

OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"optimizer": "muon"},
    "average and z-loss": {"recipes": RECIPES},
    "muon's average and z-loss": {"recipes": RECIPES, "optimizer": "muon"},
    "passes": {"batch": 5, "micro_batch": 2, "attention_dropout": 0.2},
    "rope in a window": {"position": "rope", "window": 5, "qk_norm": True, "window_pattern": "SL"},
    "a window that drops": {"window": 3, "attention_dropout": 0.2},
    "shared keys, gates, a head": {"position": "rope", "kv_heads": 1, "ffn": "swiglu", "tied": False},
    "muon's maps": {"kv_heads": 1, "ffn": "swiglu", "optimizer": "muon", "tied": False, "ffn_mult": 0.5},
    "biases": {"bias": True, "position": "sinusoidal", "init": "fan_in"},
    "mup": WIDER,
    "mup by muon": {**WIDER, "optimizer": "muon", "bias": True},
    "completep": {"scaling": Parametrisation(name="completep", width=8, depth=1, head=4)},
    "many words": {"vocab_size": 1024, "recipes": RECIPES},
    "decay by the gap": {"weight_decay": GapDecay(patience=1)},
    "one schedule": {"schedule": "sgdr"},
}


IN_OTHERS = ("adamw", "muon", "average and z-loss", "mup")
"""What other rows have as well, with more; alone they are a proof."""

BY_OPTIMIZER = pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.proof), "muon"])
"""Muon leaves embeddings, norms and biases to AdamW."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.proof if name in IN_OTHERS else ()) for name in OPTIONS]
)
def test_each_member_is_its_own_training(name: str, make_members: Make) -> None:
    alone, members = (make_members(steps=12, **OPTIONS[name]) for _ in range(2))
    logs: list[list[Any]] = [[], []]
    pack = Pack(members)
    for until in (5, 12):
        for trainer in alone:
            trainer.run(until, lambda step: logs[0].append(step))
            trainer.evaluated(1.0 / until, float(until))  # a gap that opens
        assert pack.run(until - members[0].step, lambda trainer, step: logs[1].append(step)) == {}
        for trainer in members:
            trainer.evaluated(1.0 / until, float(until))
    for mine, theirs in zip(members, alone, strict=True):
        assert apart(mine, theirs) < 1e-10
    told = [sorted((step.number, step.lr, step.targets, step.clipped) for step in log) for log in logs]
    assert told[0] == told[1]
    assert sorted(s.loss for s in logs[1]) == pytest.approx(sorted(s.loss for s in logs[0]), rel=1e-6)
    assert sorted(s.norm for s in logs[1]) == pytest.approx(sorted(s.norm for s in logs[0]), rel=1e-6)


@BY_OPTIMIZER
def test_in_float32_it_is_about_as_far_off_as_one_thread_is_from_two(optimizer: str, make_members: Make) -> None:
    shape = {"width": 64, "heads": 4, "batch": 32, "dtype": torch.float32, "optimizer": optimizer}
    (one, two), members = (make_members(**shape) for _ in range(2)), make_members(**shape)
    for threads, trainers in ((1, one), (2, two)):
        with reproducible(threads):
            for trainer in trainers:
                trainer.run(5)
    Pack(members).run(5)
    by_threads = [float((numbers(a) - numbers(b)).norm()) for a, b in zip(one, two, strict=True)]
    packed = [float((numbers(a) - numbers(b)).norm()) for a, b in zip(one, members, strict=True)]
    assert max(packed) <= 2.0 * max(by_threads)


def test_products_in_bfloat16_are_about_as_far_off_as_its_rounding(make_members: Make) -> None:
    low = {"dtype": torch.float32, "recipes": [{"precision": Precision(name="bf16")}] * 3}
    losses: list[list[float]] = [[], [], []]
    for log, given in ((losses[0], {"dtype": torch.float32}), (losses[1], low)):
        for trainer in make_members(**given):
            trainer.run(20, lambda step, log=log: log.append(step.loss))  # type: ignore[misc]
    members = make_members(**low)
    by_member: dict[Trainer, list[float]] = {}
    Pack(members).run(20, lambda trainer, step: by_member.setdefault(trainer, []).append(step.loss))
    losses[2] = [loss for trainer in members for loss in by_member[trainer]]
    wide, alone, packed = (torch.tensor(log) for log in losses)
    assert 0.0 < float((packed - alone).norm()) <= 2.0 * float((alone - wide).norm())


def test_one_that_diverges_leaves_the_others_alone(make_members: Make) -> None:
    alone, members = make_members(), make_members()
    for trainers in (alone, members):  # above which a loss is lost, after so many steps
        trainers[1].watch.ceiling, trainers[1].watch.warmup = 1.0, 7
    pack = Pack(members)
    lost = pack.run(20)
    assert list(lost) == [members[1]]
    assert "is above 1 at step 7" in str(lost[members[1]])
    assert pack.trainers == [members[0], members[2]]
    for mine, theirs in zip(members, alone, strict=True):
        with pytest.raises(Diverged) if theirs is alone[1] else nullcontext():
            theirs.run(20)
        assert apart(mine, theirs) < 1e-10


@BY_OPTIMIZER
def test_numbers_that_are_none_stay_with_the_member_that_has_them(optimizer: str, make_members: Make) -> None:
    alone, members = (make_members(optimizer=optimizer, recipes=RECIPES) for _ in range(2))
    pack = Pack(members)
    pack.run(3)
    with torch.no_grad():
        members[2].model.embedding.weight.fill_(torch.nan)  # type: ignore[union-attr,operator]
    assert list(pack.run(7)) == [members[2]]
    for mine, theirs in zip(members[:2], alone, strict=False):
        theirs.run(10)
        assert apart(mine, theirs) < 1e-10


@BY_OPTIMIZER
def test_read_late_it_is_the_same_to_the_step(optimizer: str, make_members: Make) -> None:
    """As on a GPU, where the host has no say: what diverges is refused there, and leaves some steps later."""
    alone, members = (make_members(optimizer=optimizer, recipes=RECIPES) for _ in range(2))
    for trainers in (alone, members):
        trainers[1].watch.ceiling, trainers[1].watch.warmup = 1.0, 7
    for trainer in members:
        trainer.late = 4
    pack, told = Pack(members), dict[Trainer, list[int]]()
    pack.run(3, lambda trainer, step: told.setdefault(trainer, []).append(step.number))
    lost = pack.run(17, lambda trainer, step: told.setdefault(trainer, []).append(step.number))
    assert list(lost) == [members[1]]
    assert "at step 7" in str(lost[members[1]])
    pack.run(20 - members[0].step, lambda trainer, step: told[trainer].append(step.number))
    for mine, theirs, until in zip(members, alone, (20, 7, 20), strict=True):
        with pytest.raises(Diverged) if until == 7 else nullcontext():
            theirs.run(20)
        if until == 7:  # late it has counted more averages, none of which was taken
            mine.averaged.n_averaged = theirs.averaged.n_averaged  # type: ignore[union-attr]
        assert apart(mine, theirs) < 1e-10
        assert told[mine] == list(range(until))


@BY_OPTIMIZER
def test_late_numbers_that_are_none_change_nothing(
    optimizer: str, make_members: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, members = (make_members(optimizer=optimizer, recipes=RECIPES) for _ in range(2))
    plain, passes = PackedGPT.__call__, 0

    def spoilt(self: PackedGPT, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal passes
        passes += 1
        x, heads = plain(self, *given)
        return x * torch.tensor([1.0, 1.0, torch.nan if passes == 6 else 1.0])[: len(x), None, None], heads

    monkeypatch.setattr(PackedGPT, "__call__", spoilt)
    for trainer in members:
        trainer.late = 4
    pack = Pack(members)
    lost = pack.run(15)
    assert list(lost) == [members[2]]
    assert "at step 5" in str(lost[members[2]])
    for mine, theirs, until in zip(members, alone, (15, 15, 5), strict=True):
        theirs.run(until)
        if until == 5:  # its own notes are of the step that was refused, too
            mine.watch.restore(theirs.watch.state())
            mine.averaged.n_averaged = theirs.averaged.n_averaged  # type: ignore[union-attr]
        assert apart(mine, theirs) < 1e-10


def test_who_leaves_goes_on_alone_and_the_others_as_one(make_members: Make) -> None:
    alone, members = make_members(optimizer="muon", recipes=RECIPES), make_members(optimizer="muon", recipes=RECIPES)
    pack = Pack(members)
    pack.run(5)
    pack.leave(members[0])
    assert pack.trainers == members[1:]
    members[0].run(20)
    pack.run(6)
    pack.leave(members[2])
    members[2].run(20)
    pack.run(9)  # of one
    for mine, theirs in zip(members, alone, strict=True):
        theirs.run(20)
        assert apart(mine, theirs) < 1e-10
        assert all(p.untyped_storage().nbytes() == p.nbytes for p in mine.model.parameters())


@BY_OPTIMIZER
def test_a_member_goes_on_alone_from_its_checkpoint_and_a_training_alone_as_a_member(
    optimizer: str, make_members: Make, tmp_path: Path
) -> None:
    alone, members, again = (make_members(optimizer=optimizer, recipes=RECIPES) for _ in range(3))
    pack = Pack(members)
    pack.run(6)
    for number, (trainer, theirs) in enumerate(zip(members, alone, strict=True)):
        save_checkpoint(tmp_path / f"packed{number}", trainer.state())
        theirs.run(6 + number)
        save_checkpoint(tmp_path / f"alone{number}", theirs.state())
    sizes = [(tmp_path / f"{kind}0").stat().st_size for kind in ("packed", "alone")]
    assert sizes[0] < 1.1 * sizes[1]
    again[0].restore(load_checkpoint(tmp_path / "packed0"))
    again[0].run(20)
    for number in (1, 2):  # not at one step
        again[number].restore(load_checkpoint(tmp_path / f"alone{number}"))
    Pack(again[1:]).run(12)
    again[1].run(20)
    for mine, theirs in zip(again, alone, strict=True):
        theirs.run(20)
        assert apart(mine, theirs) < 1e-10


def test_steps_of_unlike_sizes_are_taken_one_after_the_other(make_members: Make) -> None:
    alone, members = make_members(recipes=RECIPES), make_members(recipes=RECIPES)
    for trainers in (alone, members):
        trainers[1].run(19)  # its last step is to come
        for trainer in trainers:
            trainer.source.total = 78  # type: ignore[attr-defined]
            trainer.source._bounds = type(trainer.source._bounds)((0,), 4, 78)  # type: ignore[attr-defined]
    Pack(members).run(1)
    for mine, theirs in zip(members, alone, strict=True):
        theirs.run(theirs.step + 1)
        assert apart(mine, theirs) < 1e-10
    assert [trainer.targets for trainer in members] == [32, 19 * 32 + 16, 32]


def test_out_of_memory_as_one_they_go_on_one_after_the_other(
    make_members: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, members = make_members(), make_members()
    pack = Pack(members)
    pack.run(4)
    tries = []

    def full(self: PackedGPT, *given: Any) -> None:
        tries.append(given)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackedGPT, "__call__", full)
    assert pack.run(6) == {}
    assert len(tries) == 1
    for mine, theirs in zip(members, alone, strict=True):
        theirs.run(10)
        assert apart(mine, theirs) < 1e-10


def test_other_errors_are_not_taken_for_a_lack_of_memory(make_members: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: PackedGPT, *given: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(PackedGPT, "__call__", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        Pack(make_members()).run(1)


def test_what_is_not_of_one_kind_is_refused(make_trainer: Callable[..., Trainer]) -> None:
    first = make_trainer(optimizer="muon")
    plainer = Trainer(first.model, first.source, replace(first.recipe, optimizer=Muon(lr=1e-3, nesterov=False)))
    half = make_trainer(optimizer="muon")
    half.model.double()
    others = {
        "model": make_trainer(optimizer="muon", width=32),
        "ema": make_trainer(optimizer="muon", recipe={"ema": 0.9}),
        "precision": make_trainer(optimizer="muon", recipe={"precision": Precision(name="bf16")}),
        "optimizer": make_trainer(),
        "nesterov": plainer,
        "dtype": half,
    }
    for what, other in others.items():
        with pytest.raises(RecipeError, match=f"pack {what}"):
            Pack([first, other])
    for what, given in {
        "optimizer": {"optimizer": "sgd"},
        "precision": {"recipe": {"precision": Precision(name="fp16")}},
    }.items():
        with pytest.raises(RecipeError, match=f"pack {what}"):
            Pack([make_trainer(**given)] * 2)


def test_members_differ(make_members: Make) -> None:
    """Lest all of the above compares what is the same for all."""
    members = make_members(recipes=RECIPES)
    Pack(members).run(5)
    every = [numbers(trainer) for trainer in members]
    assert all(float((every[0] - other).abs().max()) > 1e-3 for other in every[1:])
