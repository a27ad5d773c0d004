"""Several runs on one page: their best genomes are compared by what the final comparisons share, and only that."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune import Search
from evo_tune.report.charts import Part
from evo_tune.report.inference import paired_difference, unpaired_difference
from evo_tune.report.page import report
from evo_tune.report.recommendation import fresh_values
from evo_tune.report.run_data import RunData
from evo_tune.report.side_by_side import compare_best, comparison_parts
from evo_tune.store.run import Run
from tests.report.conftest import HOSTILE, Made

NOISY = """
from evo_tune import Float, Minimize, SearchSpace
SPACE = SearchSpace(x=Float(0.0, 1.0, default=0.9))
OBJECTIVES = [Minimize("val_loss"), Minimize("size")]
TEST = {"val_loss": "test_loss"}
def evaluate(genome, context, *, offset: float = 0.0):
    loss = genome["x"] + 0.01 * (context.seed % 7) + 0.001 * (context.seed % 5) * genome["x"] + offset
    return {"val_loss": loss, "size": 2.0 * loss} | ({"test_loss": loss + 100.0} if context.test else {})
"""

Runner = Callable[..., Run]


@pytest.fixture
def noisy(begin: Callable[..., Search], tmp_path: Path) -> Runner:
    """Return a function that makes a run whose final comparison measures test_loss."""
    (tmp_path / "noisy.py").write_text(NOISY)

    def make(name: str, **fields: object) -> Run:
        settings = {"evaluator": str(tmp_path / "noisy.py"), "strategy": "random", "trials": 5, "slots": 1}
        defaults = {**settings, "objectives": ["val_loss:min"], "final_seeds": 3}
        return begin(name, **{**defaults, **fields}).run().saved

    return make


def parts_of(*runs: Run) -> dict[str, Part]:
    return comparison_parts([RunData(run) for run in runs])


def test_runs_with_the_same_seed_are_compared_seed_by_seed(noisy: Runner) -> None:
    runs = [noisy("first"), noisy("second", options={"offset": 0.5})]
    verdict, reasons = compare_best([RunData(run) for run in runs])
    assert verdict is not None
    assert not reasons
    (row,) = verdict.variants
    values = []
    for run in runs:
        best = RunData(run).result.best
        values.append(next(row.values for row in fresh_values(run) if best is not None and row.id == best.id))
    expected = paired_difference(list(zip(values[1], values[0], strict=True)))
    assert (row.pairs, row.gain, row.error) == (
        len(values[0]),
        pytest.approx(expected.gain),
        pytest.approx(expected.total_error),
    )
    part = parts_of(*runs)["verdict"]
    assert (
        f"second is {-expected.gain:.5f} ± {expected.total_error:.2g} worse than first by mean test_loss"
        in part.explanation
    )
    assert f"paired over {row.pairs} fresh seeds" in part.explanation
    means = re.search(r"over fresh seeds, ([\d.]+) against ([\d.]+) \(paired", part.explanation)
    assert means is not None
    assert float(means[1]) - float(means[2]) == pytest.approx(-expected.gain, abs=0.01)
    assert float(means[2]) > 100.0, "the metric is that of the fresh seeds"


def test_runs_with_different_seeds_are_compared_by_welch(noisy: Runner) -> None:
    runs = [noisy("first"), noisy("second", seed=7)]
    verdict, _ = compare_best([RunData(run) for run in runs])
    assert verdict is not None
    (row,) = verdict.variants
    values = []
    for run in runs:
        best = RunData(run).result.best
        values.append(next(row.values for row in fresh_values(run) if best is not None and row.id == best.id))
    expected = unpaired_difference(values[1], values[0])
    assert (row.pairs, row.gain, row.error) == (0, pytest.approx(expected.gain), pytest.approx(expected.total_error))
    assert "Welch's test" in parts_of(*runs)["verdict"].explanation


def test_runs_without_a_metric_in_common_are_not_compared(noisy: Runner) -> None:
    first, other, bare = noisy("first"), noisy("other", objectives=["size:min"]), noisy("bare", final_seeds=0)
    part = parts_of(first, other)["verdict"]
    assert part.title == "Not comparable"
    assert "The final comparison of other measured size:min, not test_loss:min." in part.explanation
    part = parts_of(first, bare)["verdict"]
    assert part.title == "Not comparable"
    assert "bare has no complete final comparison" in part.explanation


def test_only_what_differs_is_listed(noisy: Runner) -> None:
    first, second = noisy("first"), noisy("second", seed=7, options={"offset": 0.25})
    parts = parts_of(first, second)
    rows = {row["setting"]: (row["first"], row["second"]) for row in parts["settings"].rows}
    assert rows == {"option offset": ("0.0", "0.25"), "setting seed": ("1", "7")}
    assert [row["gene"] for row in parts["genome"].rows] == ["x"]


def test_a_run_beside_itself_differs_in_nothing(made: Made) -> None:
    run = made(80)
    parts = parts_of(run, run)
    assert parts["settings"].title == "No setting differs"
    assert parts["genome"].title == "No gene differs"
    assert f"{run.name} (2)" in parts["verdict"].explanation


def test_curves_of_different_evaluators_are_overlaid_if_their_metric_is_the_same(noisy: Runner, tmp_path: Path) -> None:
    (tmp_path / "copy.py").write_text(NOISY)
    parts = parts_of(noisy("first"), noisy("second", evaluator=str(tmp_path / "copy.py")))
    assert [figure.caption for figure in parts["history"].figures] == [
        "By evaluations",
        "By cost, in full trainings",
        "By time",
    ]
    assert all(len(figure.figure["data"]) == 2 for figure in parts["history"].figures)
    assert "different evaluators" in parts["history"].note


def test_curves_of_another_metric_are_not_drawn(made: Made) -> None:
    runs = [made(80), made(80, seed=3), made(90, seed=4, objectives=("params:min", "loss:min"))]
    part = parts_of(*runs)["history"]
    assert [len(figure.figure["data"]) for figure in part.figures] == [2, 2, 2]
    assert part.note == f"Not drawn, as the first objective is another one: {runs[2].name}."


def test_names_of_columns_are_not_taken_by_runs_and_nothing_is_html(noisy: Runner) -> None:
    runs = [noisy("gene"), noisy("second", options={"offset": 0.25})]
    rows = parts_of(*runs)["genome"].rows
    assert all(set(row) == {"gene", "gene (2)", "second"} for row in rows)
    (runs[0].folder / "_note.txt").write_text(HOSTILE)
    page = report(runs, "x")
    assert "<img src=x" not in page
    assert len(re.findall("<script", page)) == 3
