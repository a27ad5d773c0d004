"""A run in a notebook: read-only, and the report's charts as figures."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

import evo_tune
from evo_tune.errors import StoreError, UsageError
from evo_tune.report import charts
from evo_tune.report.page import Results
from evo_tune.store.run import Run
from tests.report.conftest import SAMPLE


@pytest.fixture
def loaded() -> Results:
    return evo_tune.load(SAMPLE)


def test_a_run_is_loaded_by_name_by_path_or_as_the_latest(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "mine")
    assert evo_tune.load("mine", store=tmp_path).name == evo_tune.load(store=tmp_path).name == "mine"
    assert evo_tune.load(str(tmp_path / "mine")).folder == tmp_path / "mine"
    with pytest.raises(StoreError, match="there is no run 'yours'"):
        evo_tune.load("yours", store=tmp_path)


def test_loading_writes_and_locks_nothing(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    os.chmod(tmp_path / "mine", 0o555)
    with Run.open(tmp_path / "mine", write=False).folder.joinpath("_journal.jsonl").open("rb"):
        run = evo_tune.load("mine", store=tmp_path)
        run.frame()
        repr(run)
        run.plot.history()
    os.chmod(tmp_path / "mine", 0o755)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_it_gives_table_best_and_front(loaded: Results) -> None:
    frame = loaded.frame()
    assert frame.shape[0] == len(loaded.trials) == 32
    assert loaded.best is not None
    lowest = frame["id"][frame["metric.val_loss"].idxmin()]
    assert loaded.best.id in set(frame["id"])
    assert [trial.id for trial in loaded.front()] == [lowest]
    assert "gene.lr" in frame


def test_every_chart_is_a_figure_of_the_library(loaded: Results) -> None:
    import plotly.graph_objects as go

    names = [name for name in charts.names() if hasattr(charts.chart_of(name), "draw")]
    assert dir(loaded.plot) == sorted(names)
    found = {name: getattr(loaded.plot, name)() for name in names}
    assert found.pop("front") is None  # one objective
    assert found.pop("patches") is None  # none
    assert all(isinstance(figure, go.Figure) for figure in found.values())
    assert loaded.plot.history.__doc__ is not None
    assert loaded.plot.history(by="time").layout.xaxis.title.text.endswith(" of work")
    assert loaded.plot.slices("lr").layout.xaxis.title.text == "lr"


def test_what_there_is_not_is_told(loaded: Results) -> None:
    with pytest.raises(AttributeError, match="there is no chart 'corse': expected one of curves"):
        loaded.plot.corse()
    with pytest.raises(UsageError, match=r"plot\.slices"):
        loaded.plot.slices("learning_rate")


def test_in_a_notebook_it_is_a_line(loaded: Results) -> None:
    assert loaded.best is not None
    value = loaded.best.outcome.metrics["val_loss"]
    assert repr(loaded) == f"<run sample: 32 results, best val_loss {value:.5g} (trial {loaded.best.id})>"


def test_the_report_can_be_written_from_there(loaded: Results, tmp_path: Path) -> None:
    path = loaded.report(tmp_path / "report.html")
    assert path.stat().st_size > 1_000_000


def test_what_the_page_on_reports_shows_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    shutil.copytree(SAMPLE, tmp_path / "populations" / "mine")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/report.md", "exec"), {})
    assert (tmp_path / "report.html").exists()


def test_the_page_on_reports_has_a_row_for_each_part() -> None:
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!part|---)([^|]+) \|", page, re.MULTILINE)
    assert len(rows) == len(charts.names())
