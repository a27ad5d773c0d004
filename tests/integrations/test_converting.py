"""What `convert` writes is read back by the tools themselves: Optuna and its dashboard, TensorBoard, MLflow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import pytest
from click.testing import CliRunner

from evo_tune import Candidate, Outcome, Search
from evo_tune.cli import cli
from evo_tune.errors import StoreError, UsageError
from evo_tune.integrations import converting
from evo_tune.integrations.converting import convert, default_path
from evo_tune.integrations.rows import Rows
from evo_tune.report.charts.history import best_so_far
from evo_tune.store.run import Run
from tests.conftest import benchmark, drive
from tests.integrations.conftest import FAILED, PRUNED, Begin, evaluated, studies
from tests.report.conftest import HOSTILE, hostile_space

pytestmark = [pytest.mark.xdist_group("tools"), pytest.mark.extended]

Converted = Callable[[Run, str], Path]


# Optuna.


def test_optuna_loads_every_trial_as_it_was(eventful: Run, converted: Converted) -> None:
    import optuna

    study = optuna.load_study(study_name="mine", storage=studies(converted(eventful, "optuna")))
    assert [trial.number for trial in study.trials] == [candidate.id for candidate in eventful.candidates]
    for trial, candidate in zip(study.trials, eventful.candidates, strict=True):
        outcome = eventful.outcomes[candidate.id]
        assert trial.params == candidate.genome
        assert trial.user_attrs["operator"] == candidate.operator
        assert trial.user_attrs["parents"] == list(candidate.parents)
        assert trial.datetime_complete.timestamp() == pytest.approx(eventful.recorded_at[candidate.id], abs=1e-3)
        taken = trial.datetime_complete - trial.datetime_start
        assert taken.total_seconds() == pytest.approx(outcome.seconds, abs=1e-3)
        told = {round(1000 * share): point["loss"] for share, point in outcome.curve}
        assert trial.intermediate_values == told


def test_optuna_is_told_what_was_trained_in_part_pruned_or_failed(eventful: Run, converted: Converted) -> None:
    import optuna
    from optuna.trial import TrialState

    study = optuna.load_study(study_name="mine", storage=studies(converted(eventful, "optuna")))
    for trial, candidate in zip(study.trials, eventful.candidates, strict=True):
        if trial.number == FAILED:
            assert trial.state is TrialState.FAIL
            assert trial.user_attrs["error"] == "ValueError: no luck (quick.py:7)"
        elif trial.number == PRUNED or candidate.budget < 1:
            assert trial.state is TrialState.PRUNED
        else:
            assert trial.state is TrialState.COMPLETE
            assert trial.value == eventful.outcomes[candidate.id].metrics["loss"]
    assert {trial.state for trial in study.trials} >= {TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE}
    assert any(trial.user_attrs["violation"] > 0 for trial in study.trials if "violation" in trial.user_attrs)
    best = eventful.leader
    assert best is not None
    assert study.best_trial.number == best.id  # of those within the constraints, as Optuna reads them


def test_optuna_knows_several_objectives_and_their_directions(begin: Begin, converted: Converted) -> None:
    import optuna

    run = drive(begin("two", trials=6, objectives=["loss:min", "cost:max"], strategy="nsga2"), evaluate=evaluated).saved
    study = optuna.load_study(study_name="two", storage=studies(converted(run, "optuna")))
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["loss", "cost"]
    front = {trial.number for trial in study.best_trials}
    ok = [trial for trial in run.trials() if trial.ok]
    losses = {trial.id: np.array(trial.losses) for trial in ok}
    beaten = {a for a in losses for b in losses if (losses[a] >= losses[b]).all() and (losses[a] > losses[b]).any()}
    assert front == losses.keys() - beaten


def test_the_dashboard_shows_curves_and_times(eventful: Run, converted: Converted) -> None:
    from optuna_dashboard import wsgi

    app = wsgi(studies(converted(eventful, "optuna")))

    def answer(path: str, query: str = "") -> Any:
        asked: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query}
        setup_testing_defaults(asked)
        said: list[str] = []
        body = b"".join(app(asked, lambda status, *more: said.append(status)))
        assert said[0].startswith("200")
        return json.loads(body)

    [summary] = answer("/api/studies")["study_summaries"]
    study = answer(f"/api/studies/{summary['study_id']}", "after=0")
    assert summary["study_name"] == "mine"
    assert study["has_intermediate_values"]
    assert study["objective_names"] == ["loss"]
    assert len(study["trials"]) == len(eventful.candidates)
    assert {"Complete", "Pruned", "Fail"} <= {trial["state"] for trial in study["trials"]}
    assert all(trial["datetime_start"] < trial["datetime_complete"] for trial in study["trials"])


def test_what_is_in_flight_runs_and_what_was_interrupted_waits(begin: Begin, converted: Converted) -> None:
    search = begin("open", trials=6)
    drive_some(search, 3)
    search.ask()
    states = [trial.state.name for trial in studies(converted(search.saved, "optuna")).get_all_trials(0)]
    assert states == ["COMPLETE"] * 3 + ["RUNNING"]
    search.close()
    (search.saved.folder.parents[1] / "out" / "optuna").unlink()
    states = [trial.state.name for trial in studies(converted(search.saved, "optuna")).get_all_trials(0)]
    assert states == ["COMPLETE"] * 3 + ["WAITING"]


def drive_some(search: Any, count: int) -> None:
    for _ in range(count):
        candidate = search.ask()
        search.tell(candidate, evaluated(search, candidate))


# TensorBoard.


def test_tensorboard_accumulates_curves_and_ends(eventful: Run, converted: Converted) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = converted(eventful, "tensorboard")
    for id, outcome in eventful.outcomes.items():
        events = EventAccumulator(str(folder / "mine" / f"trial-{id:05}"))
        events.Reload()
        told = [(event.step, event.value) for event in events.Scalars("loss")]
        points = [(round(1000 * share), point["loss"]) for share, point in outcome.curve]
        last = [(round(1000 * eventful.candidates[id].budget), outcome.metrics["loss"])] if outcome.metrics else []
        assert told == [(step, pytest.approx(value)) for step, value in points + last]
        times = [event.wall_time for event in events.Scalars("loss")]
        assert times == sorted(times)
        assert times[-1] <= eventful.recorded_at[id] + 1e-3
        assert "grad" in events.Tags()["scalars"]


def test_tensorboard_has_the_genomes_as_hparams(eventful: Run, converted: Converted) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    folder = converted(eventful, "tensorboard")

    def plugin(where: Path, tag: str) -> Any:
        events = EventAccumulator(str(where))
        events.Reload()
        return metadata._parse_plugin_data_as(events.SummaryMetadata(tag).plugin_data.content, field_of[tag])

    field_of = {
        metadata.EXPERIMENT_TAG: "experiment",
        metadata.SESSION_START_INFO_TAG: "session_start_info",
        metadata.SESSION_END_INFO_TAG: "session_end_info",
    }
    experiment = plugin(folder / "mine", metadata.EXPERIMENT_TAG)
    assert [info.name for info in experiment.hparam_infos] == ["x", "n", "kind", "budget"]  # there are rungs
    assert [info.name.tag for info in experiment.metric_infos] == ["loss"]
    for candidate in eventful.candidates[:6]:
        trial = folder / "mine" / f"trial-{candidate.id:05}"
        start = plugin(trial, metadata.SESSION_START_INFO_TAG)
        held = start.hparams
        assert start.group_name == f"mine/trial-{candidate.id:05}"  # one for all runs below a folder: see its page
        assert held["budget"].number_value == candidate.budget
        assert held["x"].number_value == candidate.genome["x"]
        assert held["n"].number_value == candidate.genome["n"]
        assert held["kind"].string_value == str(candidate.genome["kind"])
        end = plugin(trial, metadata.SESSION_END_INFO_TAG)
        assert end.status == (2 if candidate.id == FAILED else 1)  # STATUS_FAILURE, STATUS_SUCCESS


def test_hparams_show_each_run_below_a_folder_by_itself(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    folder, losses = tmp_path / "both", []
    for seed in (1, 2):
        run = Run.open(benchmark("report").make_run(tmp_path / "store", f"of-{seed}", 6, seed=seed))
        converting.sink("tensorboard", folder, "--to tensorboard").update(run)
        ends = [outcome.metrics or outcome.curve[-1][1] for outcome in run.outcomes.values() if outcome.curve]
        losses += [end["loss"] for end in ends]
    events = EventMultiplexer().AddRunsFromDirectory(str(folder))
    events.Reload()
    page = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(events, str(folder))))
    columns = [api_pb2.ColParams(metric=api_pb2.MetricName(tag="loss"))]
    wanted = api_pb2.ListSessionGroupsRequest(slice_size=100, col_params=columns, allowed_statuses=[1, 2])
    shown = list_session_groups.Handler(RequestContext(), page, "", wanted).run().session_groups
    values = [group.metric_values[0].value for group in shown if group.metric_values]
    assert sorted(values) == pytest.approx(sorted(losses))  # TensorBoard has 32 bits


def test_the_end_comes_after_the_curve_and_how_it_ended_before_the_rest(begin: Begin, quick: Path) -> None:
    quick.write_text(f"{quick.read_text()}\nSUPPORTS = ['budget']\n")

    def coarse(search: Search, candidate: Candidate) -> Outcome:
        """One step of three is a third of the training, where a ninth was wanted."""
        return Outcome("ok", {"loss": 1.0}, ((1 / 3, {"loss": 2.0}),), 1.0, "cpu")

    run = drive(begin("mine", trials=4, fidelity="1/9,1"), slots=1, evaluate=coarse).saved
    row = Rows(run).row(0)
    assert run.candidates[0].budget < 1 / 3
    assert row.last_step == 333
    assert next(iter(row.facts)) == "status"


# MLflow, in one test: the database takes seconds to make.


@pytest.mark.slow
def test_mlflow_has_a_parent_and_a_child_for_each_trial_whatever_their_text(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = Run.open(benchmark("report").make_run(tmp_path / "store", "mine", 24, space=hostile_space()))
    path = tmp_path / "mine.db"
    convert(run, "mlflow", path)
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    [experiment] = client.search_experiments(filter_string="name = 'mine'")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    [parent] = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    children = {int(one.info.run_name.split()[1]): one for one in runs if one is not parent}
    assert parent.data.params["evaluator"] == "bundled:language_model"
    course = client.get_metric_history(parent.info.run_id, "loss")
    assert [(one.step, one.value) for one in course] == [row[:2] for row in best_so_far(run)]
    assert parent.data.metrics["loss"] == best_so_far(run)[-1][1]
    assert sorted(children) == [candidate.id for candidate in run.candidates]
    for id, child in children.items():
        outcome = run.outcomes[id]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["operator"] == run.candidates[id].operator
        assert sorted(child.data.params.values()) == sorted(map(str, run.candidates[id].genome.values()))
        assert child.info.status == {"ok": "FINISHED", "pruned": "KILLED"}.get(outcome.status, "FAILED")
        assert child.info.end_time == int(1000 * run.recorded_at[id])
        if outcome.metrics:
            assert child.data.metrics["loss"] == outcome.metrics["loss"]
    told = client.get_metric_history(children[0].info.run_id, "loss")
    assert [(one.step, one.value) for one in told[:-1]] == [
        (round(1000 * share), point["loss"]) for share, point in run.outcomes[0].curve
    ]


# All of them.


@pytest.mark.parametrize("tool", ["optuna", "tensorboard"])
def test_a_strangers_text_stays_text_and_inside_the_target(tool: str, tmp_path: Path, converted: Converted) -> None:
    names = {"../../outside": "../x", "/etc/\x1b[2Jclear": "a\nb", HOSTILE: HOSTILE}
    run = Run.open(benchmark("report").make_run(tmp_path / "store", "mine", 8, space=hostile_space()))
    for id, outcome in list(run.outcomes.items()):
        odd = {f"../{name}": 1.0 for name in names}
        run.outcomes[id] = type(outcome)(
            outcome.status, {**outcome.metrics, **odd}, ((0.5, odd),), 1e300, "\x1b[31mred", "\x1b]0;title\x07"
        )
        run._metrics.update(odd)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    path = converted(run, tool)
    assert {found for found in tmp_path.rglob("*") if "out" not in found.parts} == before
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    assert not any(character in file.read_bytes() for file in files for character in (b"\x1b[", b"\x1b]"))
    if tool == "optuna":
        assert not any(r"\u001b" in line.replace(r"\\u001b", "") for line in path.read_text().splitlines())
        assert len(studies(path).get_all_trials(0)) == 8


@pytest.mark.parametrize("tool", list(converting.TOOLS))
def test_nothing_that_exists_is_overwritten(tool: str, eventful: Run, tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"--to .* exists: choose another -o PATH"):
        convert(eventful, tool, path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("tool", ["optuna", "tensorboard"])
def test_a_failure_in_between_leaves_nothing(
    tool: str, eventful: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evo_tune.integrations.rows import Rows

    whole = Rows.row

    def failing(self: Rows, id: int) -> Any:
        if id == 7:
            raise OSError(28, "No space left on device")
        return whole(self, id)

    monkeypatch.setattr(Rows, "row", failing)
    with pytest.raises(StoreError, match="No space left on device; choose another -o PATH"):
        convert(eventful, tool, tmp_path / "full")
    assert not os.path.lexists(tmp_path / "full")
    assert not os.path.lexists(tmp_path / "full.lock")


@pytest.mark.parametrize(("tool", "package"), [("optuna", "optuna"), ("tensorboard", "tensorboard")])
def test_a_missing_package_is_asked_for(
    tool: str, package: str, eventful: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"--to {tool} needs .*: pip install 'evo-tune\[{tool}\]'"):
        convert(eventful, tool, tmp_path / "out")


def test_the_command_says_how_to_open_it(eventful: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["convert", "mine", "--store", str(eventful.folder.parent), "--to", "optuna"]
    said = CliRunner().invoke(cli, given)
    assert said.exit_code == 0
    assert "optuna-dashboard mine-optuna.log" in said.output
    assert default_path(eventful, "optuna").is_file()
    again = CliRunner().invoke(cli, given)
    assert isinstance(again.exception, UsageError)
    assert "mine-optuna.log exists" in str(again.exception)
