import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training import Precision, Trainer, load_checkpoint, reproducible, save_checkpoint, seed_for
from evo_tune.training.recipe import GapDecay, WeightDecay

OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "sgd": {"optimizer": "sgd"},
    "muon": {"optimizer": "muon"},
    "gap": {"weight_decay": GapDecay(patience=1)},
    "ema": {"recipe": {"ema": 0.9}},
    "bf16": {"recipe": {"precision": Precision(name="bf16")}},
    "fp16": {"recipe": {"precision": Precision(name="fp16", initial_scale=2.0**30, growth_interval=4)}},
    "rope": {"position": "rope", "window": 5, "qk_norm": True},
    "llama": {"position": "rope", "kv_heads": 1},
    "modern": {
        "optimizer": "muon",
        "value_embeddings": True,
        "ngrams": 3,
        "ngram_rows": 50,
    },
    "several": {
        "optimizer": "muon",
        "weight_decay": GapDecay(patience=1),
        "recipe": {"ema": 0.5, "precision": Precision(name="fp16")},
        "micro_batch": 3,
        "position": "rope",
        "window": 4,
    },
}

CHOICES: dict[str, tuple[object, ...]] = {
    "optimizer": ("adamw", "sgd", "muon"),
    "weight_decay": (WeightDecay(start=0.01, end=0.1), GapDecay(patience=1)),
    "schedule": ("cosine", "sgdr", "wsd", "multi_step", "constant"),
    "micro_batch": (None, 3),
    "position": ("learned", "rope"),
    "window": (None, 3),
    "kv_heads": (None, 1),
    "qk_norm": (False, True),
    "init": ("normal", "fan_in"),
}
for sample in range(5):
    rng = random.Random(sample)
    recipe = {
        "ema": rng.choice((None, 0.9)),
        "precision": Precision(name=rng.choice(("fp32", "bf16", "fp16"))),
    }
    OPTIONS[f"sample {sample}"] = {name: rng.choice(values) for name, values in CHOICES.items()} | {"recipe": recipe}


IN_OTHERS = ("plain", "ema", "sample 2", "sample 3", "sample 4")
SOME = [pytest.param(name, marks=pytest.mark.proof if name in IN_OTHERS else ()) for name in OPTIONS]
"""All but what other rows have as well, and but for two of the samples: those are a proof."""


@pytest.mark.parametrize("name", SOME)
def test_ten_and_ten_steps_are_twenty_to_the_bit(
    name: str, make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    options = {"dropout": 0.1, "clip": 0.5, **OPTIONS[name]}
    whole, first, second = (make_trainer(**options) for _ in range(3))
    log: list[list[object]] = [[], []]
    for trainer, lines in ((whole, log[0]), (first, log[1])):
        for until in (3, 6, 10):
            trainer.run(until, lines.append)
            if trainer.gap is not None:
                trainer.gap.update(1.0 / until, float(until))  # a gap that opens
    whole.run(20, log[0].append)
    save_checkpoint(tmp_path / "checkpoint.pt", first.state())
    torch.manual_seed(99)  # another process would have another state
    second.restore(load_checkpoint(tmp_path / "checkpoint.pt"))
    second.run(20, log[1].append)
    assert log[0] == log[1]
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.model.state_dict().items())
    assert repr(whole.state()) == repr(second.state())
    if whole.averaged is not None:
        averaged = second.averaged.state_dict()  # type: ignore[union-attr]
        assert all(torch.equal(tensor, averaged[name]) for name, tensor in whole.averaged.state_dict().items())


def test_another_recipe_seed_or_model_is_refused(make_trainer: Callable[..., Trainer]) -> None:
    state = make_trainer().state()
    for other, what in (({"lr": 1e-3}, "recipe"), ({"seed": 4}, "seed"), ({"width": 32}, "model")):
        with pytest.raises(RecipeError, match=what):
            make_trainer(**other).restore(state)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})

    def full_disk(state: object, file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    monkeypatch.undo()
    save_checkpoint(path, {"step": 3})
    assert load_checkpoint(path) == {"step": 3}
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Code()}, "evil.pt")
    with pytest.raises(RecipeError, match="evil"):
        load_checkpoint(Path("evil.pt"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(RecipeError, match="checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 10**6))
def test_each_purpose_and_step_has_a_seed_of_its_own(seed: int, step: int) -> None:
    pairs = [(purpose, at) for purpose in ("weights", "order", "noise") for at in (step, step + 1)]
    seeds = [seed_for(seed, *pair) for pair in pairs]
    assert len(set(seeds)) == 6
    assert seeds == [seed_for(seed, *pair) for pair in pairs]
    assert all(0 <= one < 2**63 for one in seeds)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True])
def test_seeds_have_32_bits(seed: int) -> None:
    with pytest.raises(RecipeError, match="seed"):
        seed_for(seed, "noise", 0)


def test_settings_hold_inside_and_are_put_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with reproducible(2):
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    with pytest.raises(ZeroDivisionError), reproducible(2):
        raise ZeroDivisionError
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    with pytest.raises(RecipeError, match="threads"), reproducible(0):
        pass
