"""A rank without memory for a pass: all begin again with smaller ones, and the training is the undisturbed one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evo_tune import Context
from evo_tune.training import ClassifierTraining, FTTransformer, RankFailed, RankRun, Ranks, session, train
from evo_tune.training import trainer as training_loop
from evo_tune.training.recipe import ClassifierTask, EncoderOptions, FTConfig
from evo_tune.training.session import train_together

GENOME = {"lr": 0.05, "batch": 16, "weight_decay": 0.0, "warmup": 0.0, "width": 8, "dropout": 0.2}
OPTIONS: dict[str, Any] = {"epochs": 4.0, "precision": "fp32", "optimizer": "sgd", "ranks": 2, "evaluations": 3}


def task_of(options: dict[str, Any]) -> ClassifierTask:
    rng, shape = np.random.default_rng(0), FTConfig(outputs=2, depth=1, width=8, heads=2, numeric=3, dropout=0.2)
    rows = rng.normal(size=(60, 3)).astype(np.float32)
    return ClassifierTask(
        options=EncoderOptions(**options),
        build=lambda seed: FTTransformer(shape, seed=seed),
        inputs=rows,
        classes=(rows[:, 0] > 0).astype(np.int64),
        flops_per_sample=1.0,
        reference=16,
        data="these",
        genome=GENOME,
    )


def in_tight_memory(
    ranks: Ranks, tell: Callable[[dict[str, float]], None], *, run: Any, options: Any, room: int, after: int
) -> dict[str, float]:
    """Train; the second rank has room for so many samples in a pass, once so many steps are done."""
    accumulate, done = training_loop.accumulate, iter(range(1000))

    def scarce(model: torch.nn.Module, window: Any, *args: Any, **kwargs: Any) -> Any:
        if ranks.rank == 1 and next(done) >= after and max(len(inputs) for inputs, _ in window) > room:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")
        return accumulate(model, window, *args, **kwargs)

    training_loop.accumulate = scarce
    return train(task_of(options), RankRun.of(ranks, tell, run), ClassifierTraining, ranks)[1]


def trained(folder: Path, **tight: Any) -> tuple[dict[str, float], Context]:
    run, options = Context(seed=3, folder=folder), {**OPTIONS, **tight.pop("options", {})}
    return train_together(in_tight_memory, run, options, **{"after": 0, **tight}), run


@pytest.mark.xdist_group("ranks")
def test_a_rank_that_runs_out_of_memory_in_mid_training_has_all_begin_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], forked_ranks: None
) -> None:
    undisturbed = Context(seed=3, folder=tmp_path / "alone")
    alone = train(task_of({**OPTIONS, "ranks": 1}), undisturbed, ClassifierTraining)[1]
    tight, run = trained(tmp_path / "tight", room=4, after=8)
    assert tight["micro_batch"] == 4, "a quarter of the step: half of what each of two ranks has"
    for name in ("val_loss", "train_loss"):
        assert tight[name] == pytest.approx(alone[name], rel=1e-5)
    assert alone["steps"] == tight["steps"] == 12
    assert [at for at, _ in run.curve] == [at for at, _ in undisturbed.curve], "no point is told twice"
    assert len(run.curve) == 3
    said = capfd.readouterr().err
    assert said.count("rank 1 is out of memory") == 1
    assert "all ranks begin again, with 2 parts of each" in said


@pytest.mark.proof
def test_where_not_even_one_sample_fits_it_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RankFailed, match=r"rank 1 is out of memory .*no pass of it can be smaller") as caught:
        trained(tmp_path, room=0, options={"micro_batch": 1})
    assert (caught.value.status, caught.value.smaller) == ("out_of_memory", False)
    assert "begin again" not in capfd.readouterr().err


@pytest.mark.parametrize("rooms", [0, 2])
def test_all_begin_again_as_often_as_a_pass_can_be_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rooms: int
) -> None:
    """In short: what a rank says that has no room is test_launcher's."""
    parts = []

    def launch(*_: Any, **given: Any) -> dict[str, float]:
        parts.append(given["parts"])
        raise RankFailed(1, "no room", "out_of_memory", smaller=len(parts) <= rooms)

    monkeypatch.setattr(session, "launch", launch)
    with pytest.raises(RankFailed, match="no room"):
        trained(tmp_path, room=0)
    assert parts == [1, 2, 4][: rooms + 1]
    assert capfd.readouterr().err.count("all ranks begin again") == rooms
