"""The table of metrics: what the evaluators declare is made of it, and so is what they return."""

from __future__ import annotations

from types import SimpleNamespace

from evo_tune.recipe import METRICS, measured, units_of


def test_each_group_has_a_name_once() -> None:
    for group in ("classes", "samples", "regression", "language", "tuning", "baseline"):
        names = [row.name for row in METRICS if group in row.groups]
        assert len(names) == len(set(names)) > 0
    assert all(row.meaning and "\n" not in row.meaning for row in METRICS)


def test_units_are_those_of_the_group() -> None:
    assert units_of("classes")["val_loss"] == "nats"
    assert units_of("tuning")["val_loss"] == "nats per token"
    assert units_of("classes", "baseline") == {**units_of("classes"), **units_of("baseline")}
    assert "resumed_step" not in units_of("classes")  # a column only where trials have it


def test_what_has_no_value_is_left_out() -> None:
    scores = SimpleNamespace(loss=0.5, accuracy=0.25, balanced_accuracy=0.2, macro_f1=0.1, auc=None)
    assert measured(scores, "baseline") == {
        "baseline_loss": 0.5,
        "baseline_accuracy": 0.25,
        "baseline_balanced_accuracy": 0.2,
        "baseline_macro_f1": 0.1,
    }
