"""Lightning through its evaluator: curves, a prune, and rungs that are the whole training."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from evo_tune import Context, Minimize, Search
from evo_tune.errors import RunError
from evo_tune.plugins.context import Pruned
from evo_tune.plugins.find import find_evaluator
from tests.here import Here

absent = importlib.util.find_spec("lightning") is None  # it is imported where it is used: that takes seconds
pytestmark = [pytest.mark.xdist_group("lightning"), pytest.mark.slow, pytest.mark.skipif(absent, reason="no lightning")]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "integrations" / "lightning_module.py"
STEPS = 50  # an epoch has 16


@pytest.fixture(autouse=True)
def _theirs() -> Iterator[None]:
    """Leave their own warnings to them, and train on one thread as a worker does."""
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def evaluated(context: Context, steps: int = STEPS) -> dict[str, float]:
    plugin = find_evaluator(str(EXAMPLE))
    metrics: dict[str, float] = plugin.bind({"steps": steps}).evaluate({"lr": 0.01, "width": 32}, context)
    return metrics


@pytest.mark.parametrize("budgets", [(0.26, 0.7), (0.32, 0.64)], ids=["within epochs", "at their ends"])
def test_rungs_are_the_training_that_had_none(budgets: tuple[float, ...], tmp_path: Path) -> None:
    whole = Context(seed=3, folder=tmp_path / "whole")
    expected = evaluated(whole)
    contexts: list[Context] = []
    for number, budget in enumerate((*budgets, 1.0)):
        before = tmp_path / str(number - 1) if number else None
        contexts.append(Context(seed=3, budget=budget, folder=tmp_path / str(number), resume_folder=before))
    ends = [evaluated(context) for context in contexts]
    assert ends[-1] == expected
    assert ends[0]["val_loss"] > ends[-1]["val_loss"]
    assert [context.curve[-1][0] for context in contexts] == [*budgets, 1.0]
    assert contexts[2].curve[0][0] > budgets[1]
    joined = {at: point for context in contexts for at, point in context.curve}
    assert [joined[at] for at, _ in whole.curve] == [point for _, point in whole.curve]
    assert not list((tmp_path / "2").glob("*.ckpt"))  # nothing goes on from a whole one


def test_a_hopeless_training_is_stopped(tmp_path: Path) -> None:
    bound = ((0.5, "val_loss", 1e-9),)
    context = Context(seed=3, folder=tmp_path, stop_if=bound, objectives=[Minimize("val_loss")])
    with pytest.raises(Pruned, match=r"val_loss=.* at 64% is beyond its bound"):
        evaluated(context)
    assert [at for at, _ in context.curve] == [0.32, 0.64]


def test_a_training_that_is_judged_by_nothing_says_so(tmp_path: Path) -> None:
    import torch
    from lightning.pytorch.demos.boring_classes import BoringModel

    from evo_tune.integrations.lightning import fit, trainer

    context = Context(folder=tmp_path)
    data = torch.utils.data.DataLoader(torch.zeros(4, 32))
    with pytest.raises(RunError, match="Lightning validated nothing"):
        fit(trainer(context, max_steps=2, limit_val_batches=0), BoringModel(), context, data)
    with pytest.raises(RunError, match="the Trainer has no end"):
        fit(trainer(context, max_epochs=-1), BoringModel(), context, data)


def test_the_example_runs_in_rungs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo_tune.loop.slots.open_slots", lambda task, *more: [Here(task)])
    options = {"steps": 20}
    search = Search(str(EXAMPLE), options=options, fidelity="0.5,1", trials=2, population=2, store=tmp_path).run()
    assert [trial.outcome.error for trial in search.trials] == [None] * len(search.trials)
    resumed = [trial for trial in search.trials if trial.candidate.resumes is not None]
    assert resumed
    assert all(trial.outcome.curve[0][0] > 0.5 for trial in resumed)
    assert len(EXAMPLE.read_text().splitlines()) <= 40
