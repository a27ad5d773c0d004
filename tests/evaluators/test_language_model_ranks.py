"""The language model trained by several processes, and in micro-batches that the machine's memory decides."""

from pathlib import Path
from typing import Any

import pytest

from evo_tune import Context
from evo_tune.errors import RecipeError, UsageError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training.hardware import device as capacity
from evo_tune.training.recipe import GPTConfig, predict_memory

OPTIONS = {"size": "2x64x64x512", "tokens": 4096, "eval_tokens": 1024, "precision": "fp32"}


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator("language_model")


@pytest.fixture(scope="module")
def default(evaluator: Evaluator) -> dict[str, Any]:
    return {**evaluator.bind({"size": "2x64x64x512"}).space.default(), "optimizer": "adamw"}


def judge(evaluator: Evaluator, genome: dict[str, Any], context: Context, **options: Any) -> dict[str, float]:
    metrics: dict[str, float] = evaluator.bind({**OPTIONS, **options}).evaluate(genome, context)
    return metrics


SPENT = ("tokens", "steps", "flops", "params", "final_lr_fraction")
LOSSES = ("val_loss", "val_bpb", "train_loss")


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
def test_two_ranks_are_one_training(
    evaluator: Evaluator, default: dict[str, Any], tmp_path: Path, forked_ranks: None
) -> None:
    """Half of it by two ranks, with a batch that grows, is what one process does; and one process goes on with it."""
    options = {"schedule": "wsd", "ramp_from": 192, "ramp_share": 0.5}

    def done(folder: str, budget: float, after: str | None = None, ranks: int = 1) -> tuple[dict[str, float], Context]:
        resumed = None if after is None else tmp_path / after
        context = Context(seed=1, budget=budget, folder=tmp_path / folder, resume_folder=resumed)
        return judge(evaluator, default, context, ranks=ranks, **options), context

    (alone, expected), (together, seen) = done("alone", 0.5), done("together", 0.5, ranks=2)
    assert [together[name] for name in SPENT] == [alone[name] for name in SPENT]
    assert [together[name] for name in LOSSES] == pytest.approx([alone[name] for name in LOSSES], rel=1e-5)
    assert together["micro_batch"] == alone["micro_batch"] / 2
    assert [at for at, _ in seen.curve] == [at for at, _ in expected.curve]
    losses = [[point["val_loss"] for _, point in context.curve] for context in (seen, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    whole, resumed = done("whole", 1.0)[0], done("resumed", 1.0, after="together")[0]
    assert resumed["resumed_step"] == together["steps"]
    assert [resumed[name] for name in SPENT] == [whole[name] for name in SPENT]
    assert [resumed[name] for name in LOSSES] == pytest.approx([whole[name] for name in LOSSES], rel=1e-5)


def test_a_batch_that_grows_takes_more_steps_for_the_same_tokens(
    evaluator: Evaluator, default: dict[str, Any], tmp_path: Path
) -> None:
    plain = judge(evaluator, default, Context(seed=1, folder=tmp_path))
    options = {"ramp_from": 64, "ramp_share": 0.5}
    grown = judge(evaluator, default, Context(seed=1, folder=tmp_path), **options)
    assert (grown["tokens"], grown["flops"]) == (plain["tokens"], plain["flops"])
    assert grown["steps"] > plain["steps"]
    assert evaluator.bind({**OPTIONS, **options}).estimate(default)["tokens"] == plain["tokens"]
    large = judge(evaluator, default, Context(seed=1, folder=tmp_path), ramp_from=8192)
    assert large["val_loss"] == plain["val_loss"]  # from the batch itself on there is nothing to grow
    with pytest.raises(UsageError, match="ramp"):
        _ = evaluator.bind({**OPTIONS, "ramp_share": 0.0}).space


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ranks": 0}, "ranks=0"), ({"ranks": 65}, "ranks=65"), ({"ranks": 2, "seconds": 1.0, "tokens": None}, "seconds")],
)
def test_ranks_that_cannot_be_are_found_before_anything_is_trained(
    evaluator: Evaluator, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _ = evaluator.bind({**OPTIONS, **options}).space


def test_more_ranks_than_gpus_are_refused_before_data_is_read(
    evaluator: Evaluator, default: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RecipeError, match=r"ranks=2 .*at most 1, the number of GPUs"):
        judge(evaluator, default, Context(device="cuda:0", folder=tmp_path), ranks=2, data=str(tmp_path / "missing"))


def test_a_gpus_memory_is_predicted_for_the_pass_of_one_rank(evaluator: Evaluator, default: dict[str, Any]) -> None:
    genome = {**default, "batch": 1024, "context": 64}
    shape = {name: default[name] for name in ("depth", "width", "heads", "position", "ngrams")}
    config = GPTConfig(context=64, **shape)

    def predicted(**options: Any) -> float:
        return evaluator.bind({**OPTIONS, **options}).estimate(genome)["gpu_memory"]

    for micro, options in ((16, {}), (8, {"ranks": 2}), (2, {"micro_batch": 128}), (1, {"micro_batch": 8})):
        setup = {"ranks": options.get("ranks", 1), "accumulated": "micro_batch" in options}
        memory = predict_memory(config, micro, device="cuda", **setup)
        assert predicted(**options) == pytest.approx(memory.peak - memory.context)
    assert predicted(precision="auto") == predicted(precision="bf16") < predicted()


def test_too_little_memory_changes_the_micro_batch_and_no_result(
    evaluator: Evaluator, default: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = {**default, "batch": 1024}
    shape = {name: default[name] for name in ("depth", "width", "heads", "position", "ngrams")}
    config = GPTConfig(context=64, **shape)
    roomy = judge(evaluator, default, Context(seed=1, folder=tmp_path))
    assert roomy["micro_batch"] == 1024
    assert roomy["peak_memory"] == pytest.approx(predict_memory(config, 16).peak)
    five, one = (predict_memory(config, micro, accumulated=True).peak for micro in (5, 1))
    for total, least, most in ((five, 4, 4), (0.999 * one, 1, 2)):
        monkeypatch.setattr(capacity, "device_memory", lambda device, total=total: 1.0001 * total / 0.9)
        tight = judge(evaluator, default, Context(seed=1, folder=tmp_path))
        assert least <= tight["micro_batch"] / 64 <= most
        assert tight["peak_memory"] <= total
        assert [tight[name] for name in LOSSES] == pytest.approx([roomy[name] for name in LOSSES], rel=1e-5)
    monkeypatch.setattr(capacity, "device_memory", lambda device: 1e6)
    with pytest.raises(RecipeError, match="capacity"):
        judge(evaluator, default, Context(seed=1, folder=tmp_path))
    assert judge(evaluator, default, Context(seed=1, folder=tmp_path), micro_batch=128)["micro_batch"] == 128
