"""An evaluation in several ranks: one curve, one decision, and all of them end with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evo_tune import Context, Minimize
from evo_tune.errors import PluginError
from evo_tune.integrations.ranks import on_ranks
from evo_tune.plugins.context import Pruned
from tests.integrations import rank_functions

GENOME = {"learning_rate": 3e-3, "per_device_train_batch_size": 4}


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
def test_rank_0_tells_the_curve_and_decides_for_all(tmp_path: Path, forked_ranks: None) -> None:
    context = Context(seed=5, folder=tmp_path)
    made = on_ranks(rank_functions.counted, {"x": 0.5}, context, ranks=2, points=4)
    assert context.curve == [(point / 4, {"loss": 0.5 * point}) for point in (1, 2, 3, 4)]
    assert made["seed"] == 5
    assert made["everyone"] == [[0, 0.75, 2], [1, 0.75, 0]]  # rank 0 saw two points, and both stopped at the second


def test_one_rank_is_this_process(tmp_path: Path) -> None:
    context = Context(seed=5, folder=tmp_path)
    made = on_ranks(lambda genome, given, *, more: (genome, given, more), {"x": 1}, context, ranks=1, more=2)
    assert made == ({"x": 1}, context, 2)
    with pytest.raises(PluginError, match="expected a function at the top level of a file"):
        on_ranks(lambda genome, given: None, {"x": 1}, context, ranks=2)


@pytest.mark.proof
@pytest.mark.parametrize("name", ["trained", "fitted"])
def test_a_trainer_of_two_ranks_trains_one_model_and_is_pruned_as_one(name: str, tmp_path: Path) -> None:
    function, metric = getattr(rank_functions, name), {"trained": "eval_loss", "fitted": "val_loss"}[name]
    context = Context(seed=5, folder=tmp_path / "whole")
    made = on_ranks(function, GENOME, context, ranks=2, steps=8)
    assert made["ranks"] == 2
    assert made["apart"] == 0
    assert [at for at, point in context.curve if metric in point][-1] == 1.0
    first = Context(seed=5, budget=0.5, folder=tmp_path / "first")
    on_ranks(function, GENOME, first, ranks=2, steps=8)
    second = Context(seed=5, folder=tmp_path / "second", resume_folder=tmp_path / "first")
    resumed = on_ranks(function, GENOME, second, ranks=2, steps=8)
    assert resumed[metric] == pytest.approx(made[metric], rel=1e-6)
    bound = ((0.001, metric, -1.0),)
    pruned = Context(seed=5, folder=tmp_path / "pruned", stop_if=bound, objectives=[Minimize(metric)])
    with pytest.raises(Pruned, match="beyond its bound"):
        on_ranks(function, GENOME, pruned, ranks=2, steps=400)
    assert len(pruned.curve) == 1
