"""The table of metrics: what the evaluators declare is made of it, and so is what they return."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from evo_tune.training.recipe import METRICS, Schedule, metric_units, metric_values
from evo_tune.training.recipe.metrics import Metric


def test_each_group_has_a_name_once() -> None:
    for group in ("classes", "samples", "regression", "series", "language", "tuning", "theta"):
        names = [row.name for row in METRICS if group in row.groups]
        assert len(names) == len(set(names)) > 0
    assert all(row.meaning and "\n" not in row.meaning for row in METRICS)


def test_units_are_those_of_the_group() -> None:
    assert metric_units("classes")["val_loss"] == "nats"
    assert metric_units("tuning")["val_loss"] == "nats per token"
    assert metric_units("classes", "regression") == {**metric_units("classes"), **metric_units("regression")}
    assert "resumed_step" not in metric_units("classes")  # a column only where trials have it


def test_what_has_no_value_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Metric(name, "", ("group",), "of a test", lambda t, name=name: t.get(name)) for name in "ab"]
    monkeypatch.setattr("evo_tune.training.recipe.metrics.METRICS", tuple(rows))
    assert metric_values({"a": 1.0}, "group") == {"a": 1.0}


def test_values_are_of_the_steps_that_were_taken() -> None:
    """Of a partial training: three of its four steps were clipped, of ten in the full one."""
    schedule = Schedule(steps=10, schedule="linear", warmup_fraction=0.0)
    trainer = SimpleNamespace(clipped=3, step=4, recipe=SimpleNamespace(schedule=schedule))
    training: Any = SimpleNamespace(trainer=trainer, scores=SimpleNamespace(loss=2.0))
    read: dict[str, Any] = {row.name: row.read for row in METRICS}
    assert read["clipped_fraction"](training) == 0.75
    assert read["final_lr_fraction"](training) == schedule(3) == 0.7
    assert read["perplexity"](training) == pytest.approx(math.e**2)
