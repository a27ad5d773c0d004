"""The data behind each chart, and that a chart is left out where it has nothing to say."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evo_tune.genome.trial import Outcome
from evo_tune.report import charts
from evo_tune.report.charts import as_plotly, escape_label, history, log_axis, spread_indices, trials
from evo_tune.report.charts.history import best_so_far
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import total_cost
from evo_tune.store.run import Run
from tests.conftest import cut_copy
from tests.report.conftest import SAMPLE, Made


def test_parts_come_in_the_order_of_what_matters() -> None:
    order = ["verdict", "next_steps", "patches", "history", "slices", "importances"]
    order += ["curves", "front", "scale", "trials"]
    assert charts.names() == order
    found = charts.parts(RunData(Run.open(SAMPLE)))
    assert list(found) == [
        name for name in order if name not in ("front", "patches", "scale", "failures")
    ]  # nothing failed
    assert all(part.title and part.explanation.endswith(".") for part in found.values())


def test_a_run_that_has_only_begun_says_so_and_nothing_else(made: Made, tmp_path: Path) -> None:
    found = charts.parts(RunData(Run.open(cut_copy(made(), tmp_path / "begun", 3))))
    assert list(found) == ["verdict", "next_steps", "trials"]


@pytest.mark.parametrize(
    "name", [name for name in charts.names() if hasattr(charts.chart_of(name), "draw") and name != "patches"]
)
def test_every_chart_has_figures_of_its_own(name: str, made: Made) -> None:
    material = RunData(made(80, objectives=("loss:min", "params:min")))
    figure = charts.chart_of(name).draw(material)
    drawn = as_plotly(figure)  # plotly checks each property
    assert type(drawn).__name__ == "Figure"
    assert drawn.to_json()


# All trials.


def test_the_table_has_every_trial_with_its_genome_and_result(made: Made, tmp_path: Path) -> None:
    run = Run.open(cut_copy(made(), tmp_path / "cut", 60))
    found = trials.columns(RunData(run))
    assert {len(column) for column in found.values()} == {len(run.candidates)}
    assert set(run.genes) < set(found)
    assert found["status"].count("pending") == len(run.candidates) - len(run.outcomes)
    for id, outcome in run.outcomes.items():
        row = {name: column[id] for name, column in found.items()}
        assert (row["trial"], row["status"]) == (id, outcome.status)
        known = outcome.metrics.get("loss")
        assert row["loss"] == (known and pytest.approx(known, rel=1e-5))
        assert (row["error"] is None) == (outcome.error is None)


def test_the_table_names_the_logs_that_exist_and_follows_no_link(made: Made, tmp_path: Path) -> None:
    folder = cut_copy(made(), tmp_path / "logs", 60)
    (folder / "_trials" / "000002").mkdir(parents=True)
    (folder / "_trials" / "000002" / "log.txt").write_text("hello")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "log.txt").write_text("mine")
    (folder / "_trials" / "000001").symlink_to(tmp_path / "elsewhere")
    found = trials.columns(RunData(Run.open(folder)))["log"]
    assert found[:4] == [None, None, "_trials/000002/log.txt", None]


# History.


def test_the_history_is_that_of_the_summary(material: RunData) -> None:
    went = history.Progress(material)
    turns = [i for i in range(len(went.best)) if i == 0 or went.best[i] != went.best[i - 1]]
    turns = [i for i in turns if not math.isnan(went.best[i])]
    assert [(i + 1, went.best[i], went.id[i]) for i in turns] == best_so_far(material.run)
    assert went.failed.sum() == material.result.failures


def test_one_genome_is_recommended_and_marked_in_all_charts(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The final comparison may choose another one than the best of the search."""
    chosen, first = (RunData(made()).ranked_trials[place] for place in (3, 0))
    monkeypatch.setattr("evo_tune.report.recommendation.recommend_trial", lambda run: chosen)
    found = charts.parts(RunData(made()))
    assert f"trial {chosen.id}" in " ".join(found["verdict"].facts)
    said = f"The star is the recommended trial {chosen.id}; trial {first.id} was the best in the search and is not"
    assert said in found["history"].explanation
    marked = [trace for trace in found["history"].figures[0].figure["data"] if trace["name"] == "recommended"]
    assert [{*trace["customdata"]} for trace in marked] == [{chosen.id}]


def test_a_bad_beginning_does_not_flatten_the_history(made: Made) -> None:
    material = RunData(made(400))
    assert np.nanmax(history.Progress(material).best) > material.edge_loss, "else this test says nothing"
    figure = history.draw(material)
    assert figure is not None
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < material.ranked_losses.min() < material.edge_loss < high < 1.2 * material.edge_loss


def test_cost_and_time_end_where_the_run_does(material: RunData) -> None:
    assert history.Progress(material, "cost").x[-1] == pytest.approx(total_cost(material.run))
    assert history.Progress(material, "time").x[-1] == pytest.approx(material.run.seconds, abs=1e-3)
    assert (np.diff(history.Progress(material, "time").x) >= 0).all()


def test_a_pause_between_sessions_is_no_time(tmp_path: Path) -> None:
    run = Run.open(SAMPLE)
    assert list(run.finished) == run.recorded
    assert max(run.finished.values()) <= run.seconds
    first_line = (SAMPLE / "_journal.jsonl").read_text(encoding="utf-8").partition("\n")[0]
    assert run.resumed[0] == json.loads(first_line)["spent"]


# Numbers that no chart can hold.


def test_absurd_numbers_of_a_strangers_run_are_left_out(made: Made) -> None:
    run = made(80, objectives=("loss:min", "params:min"))
    for id, value in enumerate((1.7e308, -1.7e308, 1e301, -1e301, 5e-324)):
        if run.outcomes[id + 20].status == "ok":
            metrics = {"loss": value, "params": value, "flops": value, "peak_memory": value}
            run.outcomes[id + 20] = Outcome("ok", metrics, ((0.5, metrics), (1.0, metrics)), 1e300, "cpu")
        run.finished[id + 20] = math.inf
    run.seconds = math.inf
    assert len(charts.parts(RunData(run))) > 5


def test_ticks_of_a_long_scale_are_few_and_plain() -> None:
    assert log_axis(1e-5, 0.1)["ticktext"] == ["1e-5", "1e-4", "0.001", "0.01", "0.1"]
    assert log_axis(1e4, 1e6)["ticktext"] == ["10k", "30k", "100k", "300k", "1M"]
    assert len(log_axis(1e-300, 1e300)["tickvals"]) < 12


def test_thinning_is_even_and_keeps_what_is_to_be_kept() -> None:
    assert spread_indices(5, 10).tolist() == [0, 1, 2, 3, 4]
    kept = spread_indices(1000, 11, [7, 999])
    assert set(kept.tolist()) == {0, 7, *range(100, 1000, 100), 999} or {7, 999} <= set(kept.tolist())
    assert len(kept) <= 13


def test_text_in_a_figure_means_itself() -> None:
    assert escape_label("<b>&\u202e\n") == "&lt;b&gt;&amp;\\u202e"
    assert len(escape_label("x" * 500)) == 60


# What does not fit, or is not there.


def test_titles_of_axes_are_no_longer_than_the_axis_of_a_narrow_chart() -> None:
    drawn = charts.figure([], x=charts.escape_label("<" * 50), y=charts.escape_label("a short & plain one"))
    title = html.unescape(drawn["layout"]["xaxis"]["title"]["text"])
    assert len(title) <= charts.LONGEST_TITLE
    assert title.startswith("<<<")
    assert drawn["layout"]["yaxis"]["title"]["text"] == "a short &amp; plain one"


def test_grey_points_are_visible_on_light_and_dark_paper() -> None:
    *color, alpha = map(float, charts.Color.FAINT.removeprefix("rgba(").removesuffix(")").split(","))

    def luminance(rgb: Sequence[float]) -> float:
        parts = [value / 255 for value in rgb]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for paper in ((255, 255, 255), (0x14, 0x17, 0x1A)):
        shown = [alpha * value + (1 - alpha) * ground for value, ground in zip(color, paper, strict=True)]
        low, high = sorted((luminance(shown), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3.0, "WCAG 2.2, 1.4.11"
