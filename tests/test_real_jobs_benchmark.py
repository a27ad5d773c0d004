"""benchmarks/real_jobs.py and cost_model.py: the table, the plan, and errors; the jobs themselves take hours."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import benchmark


@pytest.fixture(scope="module")
def jobs() -> ModuleType:
    return benchmark("real_jobs")


def filled(jobs: ModuleType, file: Path) -> Any:
    rows = jobs.Rows(file)
    for part, losses in {"default": (1.5, 1.7), "tpe": (1.4, 1.5), "search": (1.2, 1.4)}.items():
        for seed, loss in enumerate(losses):
            result = {"test_loss": [loss - 0.1, loss + 0.1], "seconds": [2.0, 4.0], "searched": 7.0}
            rows.get({"job": "labels", "part": part, "seed": seed}, lambda result=result: result)
    return rows


def test_the_table_has_means_errors_and_differences_paired_by_seed(
    jobs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(jobs, tmp_path / "rows.jsonl")
    jobs.summary(jobs.Rows(tmp_path / "rows.jsonl"))
    printed = capsys.readouterr().out
    assert "| default | 2 | 1.6000 ± 0.1000 |  | 0.1500 ± 0.0500 | 3 | 7 |" in printed
    assert "| search | 2 | 1.3000 ± 0.1000 | -0.3000 ± 0.0000 | -0.1500 ± 0.0500 | 3 | 7 |" in printed


def test_only_what_the_file_lacks_is_done(jobs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, done = filled(jobs, tmp_path / "rows.jsonl"), []
    monkeypatch.setattr(jobs, "planned", lambda job, rows, seconds: {"seconds": 1.0})
    monkeypatch.setattr(jobs, "search", lambda job, options, seed: done.append(seed))
    jobs.play(jobs.Job("labels", "image_classification"), ["default", "search"], [1], rows)
    assert done == []
    monkeypatch.setattr(
        jobs, "default", lambda job, options, seed: {"test_loss": [1.0], "seconds": [1.0], "searched": 0}
    )
    jobs.play(jobs.Job("labels", "image_classification"), ["default"], [5], rows)
    assert '{"job": "labels", "part": "default", "seed": 5}' in rows.known


def test_a_plan_with_another_time_is_refused(jobs: ModuleType, tmp_path: Path) -> None:
    rows = jobs.Rows(tmp_path / "rows.jsonl")
    rows.get({"job": "labels", "part": "plan"}, lambda: {"seconds": 3.0, "cost": "measured", "data": "elsewhere"})
    job = jobs.Job("labels", "image_classification", options={"data": "here"})
    assert jobs.planned(job, rows, 3.0) == {"seconds": 3.0, "cost": "measured", "data": "here"}
    with pytest.raises(SystemExit, match=r"trainings of 3 s: give another --out"):
        jobs.planned(job, rows, 4.0)


def test_errors_of_the_cost_are_median_and_worst() -> None:
    model = benchmark("cost_model")
    assert str(model.Errors([0.1, 0.02, 0.5])) == "10.0% | 50.0%"
    assert str(model.Errors([])) == "- | -"
