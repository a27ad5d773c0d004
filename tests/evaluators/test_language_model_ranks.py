"""The language model trained by several processes, and in micro-batches that the machine's memory decides."""

from pathlib import Path
from typing import Any

import pytest

from evo_tune import Context
from evo_tune.errors import RecipeError, UsageError
from evo_tune.evaluator import Evaluator
from evo_tune.plugins import find_evaluator
from evo_tune.training import GPTConfig, capacity, predict_memory

OPTIONS = {"size": "small", "tokens": 4096, "eval_tokens": 1024}


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator("language_model")


@pytest.fixture(scope="module")
def default(evaluator: Evaluator) -> dict[str, Any]:
    return evaluator.space(evaluator.bind({"size": "small"})).default()


def judge(evaluator: Evaluator, genome: dict[str, Any], context: Context, **options: Any) -> dict[str, float]:
    metrics: dict[str, float] = evaluator.evaluate(genome, context, evaluator.bind({**OPTIONS, **options}))
    return metrics


SPENT = ("tokens", "steps", "flops", "params", "final_lr_fraction")
LOSSES = ("val_loss", "val_bpb", "train_loss")


@pytest.mark.slow
def test_two_ranks_are_one_training(evaluator: Evaluator, default: dict[str, Any], tmp_path: Path) -> None:
    """Up to a quarter by two ranks, from there by two: as one process does it in one go, curve and all."""
    wsd = {"schedule": "wsd"}
    straight = Context(seed=1, folder=tmp_path / "straight")
    alone = judge(evaluator, default, straight, **wsd)
    quarter = Context(seed=1, budget=0.25, folder=tmp_path / "quarter")
    judge(evaluator, default, quarter, ranks=2, **wsd)
    whole = Context(seed=1, folder=tmp_path / "whole", resume_folder=tmp_path / "quarter")
    ranks = judge(evaluator, default, whole, ranks=2, **wsd)
    assert ranks["resumed_step"] == 2
    assert [ranks[name] for name in SPENT] == [alone[name] for name in SPENT]
    assert [ranks[name] for name in LOSSES] == pytest.approx([alone[name] for name in LOSSES], rel=1e-5)
    assert ranks["micro_batch"] == alone["micro_batch"] / 2
    for mine, expected in zip(whole.curve, straight.curve[-len(whole.curve) :], strict=True):
        assert mine[0] == expected[0]
        assert mine[1]["val_loss"] == pytest.approx(expected[1]["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ranks": 0}, "ranks=0"), ({"ranks": 65}, "ranks=65"), ({"ranks": 2, "seconds": 1.0, "tokens": None}, "seconds")],
)
def test_ranks_that_cannot_be_are_found_before_anything_is_trained(
    evaluator: Evaluator, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        evaluator.space(evaluator.bind({**OPTIONS, **options}))


def test_more_ranks_than_gpus_are_refused_before_data_is_read(
    evaluator: Evaluator, default: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RecipeError, match=r"ranks=2 .*at most the 1 GPUs"):
        judge(evaluator, default, Context(device="cuda:0", folder=tmp_path), ranks=2, data=str(tmp_path / "missing"))


def test_too_little_memory_changes_the_micro_batch_and_no_result(
    evaluator: Evaluator, default: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = {**default, "batch": 1024}
    config = GPTConfig(context=64, depth=default["depth"], width=default["width"], heads=default["heads"])
    roomy = judge(evaluator, default, Context(seed=1, folder=tmp_path))
    assert roomy["micro_batch"] == 1024
    assert roomy["peak_memory"] == pytest.approx(predict_memory(config, 16).peak)
    one = predict_memory(config, 1).peak
    for total, least, most in ((predict_memory(config, 5).peak, 4, 4), (0.999 * one, 1, 2)):
        monkeypatch.setattr(capacity, "device_memory", lambda device, total=total: 1.0001 * total / 0.9)
        tight = judge(evaluator, default, Context(seed=1, folder=tmp_path))
        assert least <= tight["micro_batch"] / 64 <= most
        assert tight["peak_memory"] <= total
        assert [tight[name] for name in LOSSES] == pytest.approx([roomy[name] for name in LOSSES], rel=1e-5)
    monkeypatch.setattr(capacity, "device_memory", lambda device: 1e6)
    with pytest.raises(RecipeError, match="capacity"):
        judge(evaluator, default, Context(seed=1, folder=tmp_path))
    assert judge(evaluator, default, Context(seed=1, folder=tmp_path), micro_batch=128)["micro_batch"] == 128
