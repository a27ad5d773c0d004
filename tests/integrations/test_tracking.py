"""What `--track` and `convert` write is read back by the tools themselves, and no tracker holds a run up."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from evo_tune import Candidate, Outcome, Search
from evo_tune.cli import cli
from evo_tune.errors import OptionError, StoreError, UsageError
from evo_tune.integrations.boards import EVENTS
from evo_tune.integrations.rows import Rows
from evo_tune.integrations.tracking import convert, open_sink, tracking
from evo_tune.store.heartbeat import running_curves
from evo_tune.store.run import Run
from tests.conftest import benchmark, drive, rows
from tests.extras import need
from tests.integrations.conftest import FAILED, PRUNED, Begin, evaluated, studies, write
from tests.report.conftest import HOSTILE, hostile_space

pytestmark = [pytest.mark.xdist_group("tools"), pytest.mark.extended]

Resume = Callable[..., Search]


def tell_some(search: Search, count: int) -> None:
    for _ in range(count):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, evaluated(search, candidate))


def journal_rows(path: Path) -> list[tuple[Any, ...]]:
    """Return all that a journal of Optuna has of every trial but its times."""
    storage = studies(path)
    trials = storage.get_all_trials(0) if storage.get_all_studies() else []  # it may be made and not yet written
    names = ("number", "state", "values", "params", "intermediate_values", "user_attrs", "system_attrs")
    return [tuple(getattr(trial, name) for name in names) for trial in trials]


def states(path: Path) -> list[str]:
    return [state.name for _, state, *_ in journal_rows(path)]


def read_events(folder: Path) -> Any:
    """Return TensorBoard's accumulator of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(folder: Path, id: int) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard reads of a trial: (step, value) by metric."""
    events = read_events(folder / "mine" / f"trial-{id:05}")
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, round(event.value, 6)) for event in events.Scalars(tag)] for tag in tags}


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def report_curve(run: Run, id: int, points: Any) -> None:
    """Report the curve of a pending trial, as its worker does."""
    (run.folder / "_trials").mkdir(exist_ok=True)
    (run.folder / "_trials" / ".worker-7.json").write_text(json.dumps({"trial": id, "curve": points}))


# ---------------------------------------------------------------- Optuna


def test_optuna_loads_every_trial_as_it_was(eventful: Run, tmp_path: Path) -> None:
    import optuna
    from optuna.trial import TrialState

    study = optuna.load_study(study_name="mine", storage=studies(write(eventful, "optuna", tmp_path / "log")))
    assert [trial.number for trial in study.trials] == [candidate.id for candidate in eventful.candidates]
    for trial, candidate in zip(study.trials, eventful.candidates, strict=True):
        outcome = eventful.outcomes[candidate.id]
        assert trial.params == candidate.genome
        assert trial.user_attrs["operator"] == candidate.operator
        assert trial.user_attrs["parents"] == list(candidate.parents)
        assert trial.datetime_complete.timestamp() == pytest.approx(eventful.recorded_at[candidate.id], abs=1e-3)
        duration = trial.datetime_complete - trial.datetime_start
        assert duration.total_seconds() == pytest.approx(outcome.seconds, abs=1e-3)
        points = {round(1000 * share): point["loss"] for share, point in outcome.curve}
        assert trial.intermediate_values == points
        if trial.number == FAILED:
            assert trial.state is TrialState.FAIL
            assert trial.user_attrs["error"] == "ValueError: no luck (quick.py:7)"
        elif trial.number == PRUNED or candidate.budget < 1:
            assert trial.state is TrialState.PRUNED
        else:
            assert trial.state is TrialState.COMPLETE
            assert trial.value == outcome.metrics["loss"]
    assert {trial.state for trial in study.trials} >= {TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE}
    assert any(trial.user_attrs["violation"] > 0 for trial in study.trials if "violation" in trial.user_attrs)
    assert eventful.leader is not None
    assert study.best_trial.number == eventful.leader.id  # of those within the constraints, as Optuna reads them


def test_optuna_has_several_objectives_and_their_directions(begin: Begin, tmp_path: Path) -> None:
    import optuna

    run = drive(begin("two", trials=6, objectives=["loss:min", "cost:max"], strategy="nsga2"), evaluate=evaluated).saved
    study = optuna.load_study(study_name="two", storage=studies(write(run, "optuna", tmp_path / "log")))
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["loss", "cost"]
    losses = {trial.id: np.array(trial.losses) for trial in run.trials() if trial.ok}
    beaten = {a for a in losses for b in losses if (losses[a] >= losses[b]).all() and (losses[a] > losses[b]).any()}
    assert {trial.number for trial in study.best_trials} == losses.keys() - beaten


def test_pending_trials_run_and_interrupted_ones_wait(begin: Begin, tmp_path: Path) -> None:
    search = begin("open", trials=6)
    tell_some(search, 3)
    search.ask()
    assert states(write(search.saved, "optuna", tmp_path / "open.log")) == ["COMPLETE"] * 3 + ["RUNNING"]
    search.close()
    assert states(write(search.saved, "optuna", tmp_path / "closed.log")) == ["COMPLETE"] * 3 + ["WAITING"]


def test_a_choice_that_the_run_widens_stays_one_distribution(begin: Begin, resume: Resume, tmp_path: Path) -> None:
    """Optuna cannot continue a study in which the choices of a categorical parameter change."""
    (tmp_path / "wide.py").write_text(
        "from evo_tune import Choice, Float, Minimize, SearchSpace\n"
        "SPACE = SearchSpace(batch=Choice((8, 16, 32, 64), ordered=True, widest=(None, None)), x=Float(0, 1))\n"
        "OBJECTIVES = [Minimize('loss')]\n"
        "def evaluate(genome, context):\n    return {'loss': -genome['batch'] + genome['x']}\n"
    )

    def loss(search: Any, candidate: Any) -> dict[str, float]:
        return {"loss": candidate.genome["x"] - candidate.genome["batch"]}

    run = drive(begin("mine", evaluator=str(tmp_path / "wide.py"), generations=None, trials=10), evaluate=loss).saved
    journal = write(run, "optuna", tmp_path / "study.log")
    run = drive(resume("mine", trials=30), evaluate=loss).saved
    assert run.widened
    write(run, "optuna", journal)
    batches = [candidate.genome["batch"] for candidate in run.candidates]
    assert [params["batch"] for _, _, _, params, *_ in journal_rows(journal)] == batches
    assert len({str(trial.distributions["batch"]) for trial in studies(journal).get_all_trials(0)}) == 1


def test_convert_writes_a_new_file_or_nothing(eventful: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["convert", "mine", "--store", str(eventful.folder.parent), "--to", "optuna"]
    printed = CliRunner().invoke(cli, words)
    assert printed.exit_code == 0
    assert "optuna-dashboard mine-optuna.log" in printed.output
    before = Path("mine-optuna.log").read_bytes()
    again = CliRunner().invoke(cli, words)
    assert "mine-optuna.log exists: choose another -o PATH" in str(again.exception)
    assert Path("mine-optuna.log").read_bytes() == before

    whole_row = Rows.row

    def failing(self: Rows, id: int) -> Any:
        if id == 7:
            raise OSError(28, "No space left on device")
        return whole_row(self, id)

    monkeypatch.setattr(Rows, "row", failing)
    with pytest.raises(StoreError, match="No space left on device; choose another -o PATH"):
        convert(eventful, tmp_path / "full")
    assert not list(tmp_path.glob("full*"))


# ---------------------------------------------------------------- TensorBoard


def test_tensorboard_accumulates_curves_and_ends(eventful: Run, tmp_path: Path) -> None:
    folder = write(eventful, "tensorboard", tmp_path / "boards")
    for id, outcome in eventful.outcomes.items():
        events = read_events(folder / "mine" / f"trial-{id:05}").Scalars("loss")
        points = [(round(1000 * share), point["loss"]) for share, point in outcome.curve]
        last = [(round(1000 * eventful.candidates[id].budget), outcome.metrics["loss"])] if outcome.metrics else []
        assert [(event.step, event.value) for event in events] == [
            (step, pytest.approx(value)) for step, value in points + last
        ]
        times = [event.wall_time for event in events]
        assert times == sorted(times)
        assert times[-1] <= eventful.recorded_at[id] + 1e-3
        assert "grad" in scalars(folder, id)


def test_tensorboard_shows_the_genomes_of_several_runs_as_hparams(eventful: Run, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    other = Run.open(benchmark("report").make_run(tmp_path / "store", "other", 6, seed=2))
    folder = tmp_path / "both"
    for run in (eventful, other):
        write(run, "tensorboard", folder)
    events = EventMultiplexer().AddRunsFromDirectory(str(folder))
    events.Reload()
    context = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(events, str(folder))))
    columns = [api_pb2.ColParams(metric=api_pb2.MetricName(tag="loss"))]
    request = api_pb2.ListSessionGroupsRequest(slice_size=100, col_params=columns, allowed_statuses=[1, 2])
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    by_name = {group.sessions[0].name: group for group in groups}
    for run in (eventful, other):
        for id, outcome in run.outcomes.items():
            group = by_name[f"{run.name}/trial-{id:05}"]
            assert group.sessions[0].status == (2 if outcome.status == "failed" else 1)  # failure, success
            end = outcome.metrics or (outcome.curve[-1][1] if outcome.curve else {})
            assert [value.value for value in group.metric_values] == ([pytest.approx(end["loss"])] if end else [])
    for candidate in eventful.candidates:
        hparams = by_name[f"mine/trial-{candidate.id:05}"].hparams
        assert hparams["budget"].number_value == candidate.budget  # there are rungs
        assert [hparams[gene].number_value for gene in ("x", "n")] == [candidate.genome[gene] for gene in ("x", "n")]
        assert hparams["kind"].string_value == str(candidate.genome["kind"])


def test_the_end_comes_after_the_curve_and_the_status_before_the_rest(begin: Begin, quick: Path) -> None:
    quick.write_text(f"{quick.read_text()}\nSUPPORTS = ['budget']\n")

    def coarse(search: Search, candidate: Candidate) -> Outcome:
        """One step of three is a third of the training, where a ninth was wanted."""
        return Outcome("ok", {"loss": 1.0}, ((1 / 3, {"loss": 2.0}),), 1.0, "cpu")

    run = drive(begin("mine", trials=4, fidelity="1/9,1"), slots=1, evaluate=coarse).saved
    row = Rows(run).row(0)
    assert run.candidates[0].budget < 1 / 3
    assert row.last_step == 333
    assert next(iter(row.facts)) == "status"


# ---------------------------------------------------------------- Weights & Biases


@pytest.mark.slow
def test_wandb_gets_each_result_once_offline_and_nothing_about_the_machine(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("wandb")
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    search, folder = begin("mine", trials=8), tmp_path / "boards"
    for count in (1, FAILED):
        tell_some(search, count)
        write(Run.open(search.saved.folder), "wandb", folder)  # as after a resume
    search.ask()
    write(Run.open(search.saved.folder), "wandb", folder)
    identity = search.saved.manifest.identity
    # Texts and numbers are plain in W&B's files.
    [texts] = ([path.read_bytes() for path in folder.glob(f"wandb/offline-run-*-{identity[:12]}-{FAILED}/*.wandb")],)
    assert len(list(folder.glob("wandb/offline-run-*"))) == FAILED + 1
    for text in ("mine", "loss", "grad", identity, "ValueError: no luck", *search.saved.genes):
        assert text.encode() in texts[0]
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not re.search(rb"\b%s\b" % re.escape(platform.node().encode()), everything)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("tool", ["optuna", "tensorboard"])
def test_a_strangers_text_stays_text_and_inside_the_target(tool: str, tmp_path: Path) -> None:
    names = {"../../outside": "../x", "/etc/\x1b[2Jclear": "a\nb", HOSTILE: HOSTILE}
    run = Run.open(benchmark("report").make_run(tmp_path / "store", "mine", 8, space=hostile_space()))
    for id, outcome in list(run.outcomes.items()):
        odd = {f"../{name}": 1.0 for name in names}
        run.outcomes[id] = type(outcome)(
            outcome.status, {**outcome.metrics, **odd}, ((0.5, odd),), 1e300, "\x1b[31mred", "\x1b]0;title\x07"
        )
        run._metrics.update(odd)
    path = tmp_path / "out" / "target"
    path.parent.mkdir()
    before = {file for file in tmp_path.rglob("*") if "out" not in file.parts}
    write(run, tool, path)
    assert {file for file in tmp_path.rglob("*") if "out" not in file.parts} == before
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert not any(character in file.read_bytes() for file in files for character in (b"\x1b[", b"\x1b]"))
    if tool == "optuna":
        assert not any(r"\u001b" in line.replace(r"\\u001b", "") for line in path.read_text().splitlines())
        assert len(studies(path).get_all_trials(0)) == 8


@pytest.mark.parametrize("tool", ["optuna", "tensorboard", "wandb"])
def test_a_missing_package_is_asked_for(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [tool, *(name for name in sys.modules if name.startswith(f"{tool}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"--track {tool} needs .*: pip install 'evo-tune\[{tool}\]'"):
        open_sink(tool, tmp_path / "out", f"--track {tool}")


def test_points_of_a_pending_trial_are_written_as_they_come(begin: Begin, tmp_path: Path) -> None:
    search = begin("mine", trials=4)
    run, journal, folder = search.saved, tmp_path / "study.log", tmp_path / "boards"
    candidate = search.ask()
    assert candidate is not None
    whole = evaluated(search, candidate)
    sinks = [open_sink("optuna", journal, "--track"), open_sink("tensorboard", folder, "--track")]

    def update() -> tuple[dict[int, float], dict[str, list[tuple[int, float]]]]:
        for sink in sinks:
            sink.update(Run.open(run.folder), running_curves(run.folder))
        [(_, state, *_, intermediate_values, _, _)] = [row for row in journal_rows(journal) if row[0] == candidate.id]
        assert state.name == ("RUNNING" if candidate.id not in Run.open(run.folder).outcomes else "COMPLETE")
        return intermediate_values, scalars(folder, candidate.id)

    report_curve(run, candidate.id, [(0.25, {"loss": 4.0, "grad": 0.25, "bad": None})])
    assert update() == ({250: 4.0}, {"loss": [(250, 4.0)], "grad": [(250, 0.25)]})
    report_curve(run, candidate.id, [*whole.curve[:2]])
    sinks[1] = open_sink("tensorboard", folder, "--track")  # a resumed run has another tracker
    assert update() == ({250: 4.0, 500: 2.0}, {"loss": [(250, 4.0), (500, 2.0)], "grad": [(250, 0.25), (500, 0.5)]})
    assert update()[1]["loss"] == [(250, 4.0), (500, 2.0)], "nothing is written twice"
    search.tell(candidate, whole)
    (run.folder / "_trials" / ".worker-7.json").unlink()
    values, events = update()
    curve = [(250, 4.0), (500, 2.0), (1000, 1.0)]
    assert (values, events["loss"]) == (dict(curve), [*curve, (1000, 1.0)])
    assert events == scalars(write(Run.open(run.folder), "tensorboard", tmp_path / "after"), candidate.id)
    assert journal_rows(journal) == journal_rows(write(Run.open(run.folder), "optuna", tmp_path / "after.log"))
    assert [path.name for path in (folder / "mine" / f"trial-{candidate.id:05}").iterdir()] == [EVENTS]


def test_a_resumed_run_continues_in_the_same_files(begin: Begin, resume: Resume, tmp_path: Path) -> None:
    run = drive(begin("mine", trials=4), evaluate=evaluated).saved
    journal, folder = (write(run, tool, tmp_path / tool) for tool in ("optuna", "tensorboard"))
    assert len(journal_rows(journal)) == 4
    run = drive(resume("mine", trials=7), evaluate=evaluated).saved
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*tfevents*")}
    write(run, "optuna", journal)
    write(run, "tensorboard", folder)
    assert [number for number, *_ in journal_rows(journal)] == list(range(7))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(folder.glob("mine/trial-*"))) == 7


def test_several_runs_share_a_file_and_never_a_study(begin: Begin, tmp_path: Path) -> None:
    first = drive(begin("first", trials=3), evaluate=evaluated).saved
    second = drive(begin("second", trials=2, seed=5), evaluate=evaluated).saved
    tools = ("optuna", "tensorboard")
    for run in (first, second):
        for tool in tools:
            write(run, tool, tmp_path / tool)
    second.folder.rename(second.folder.parent / "older")
    first.folder.rename(second.folder)  # another run of the same name
    for tool in tools:
        with pytest.raises(UsageError, match="choose another"):
            write(Run.open(second.folder), tool, tmp_path / tool)
    assert [len(studies(tmp_path / "optuna").get_all_trials(study)) for study in (0, 1)] == [3, 2]


# ---------------------------------------------------------------- processes


@pytest.mark.slow
def test_a_run_can_be_seen_while_it_continues_and_whole_at_its_end(begin: Begin, tmp_path: Path) -> None:
    search = begin("mine", trials=9)
    journal, folder = tmp_path / "study.log", tmp_path / "boards"
    with tracking(search.saved.folder, [f"optuna:{journal}", f"tensorboard:{folder}"], patience=60):
        tell_some(search, 4)
        search.ask()
        wait_for(lambda: journal.is_file() and len(journal_rows(journal)) == 5)
        assert states(journal) == ["COMPLETE"] * 4 + ["RUNNING"]
        wait_for(lambda: (folder / "mine" / "trial-00003").is_dir())
        report_curve(search.saved, 4, [(0.25, {"loss": 0.8})])
        wait_for(lambda: journal_rows(journal)[4][4] == {250: 0.8})  # and no result came meanwhile
        report_curve(search.saved, 4, [])
        search._queue.requeue_unfinished()
        drive(search, evaluate=evaluated)
    convert(search.saved, tmp_path / "after.log")
    assert journal_rows(journal) == journal_rows(tmp_path / "after.log")
    assert len(list(folder.glob("mine/trial-*/*tfevents*"))) == 9


@pytest.mark.slow
def test_a_tracker_that_hangs_or_fails_costs_the_run_a_warning(begin: Begin, tmp_path: Path) -> None:
    plain = drive(begin("plain", trials=5), evaluate=evaluated)
    (tmp_path / "hung.log").touch()
    os.symlink("nobody", tmp_path / "hung.log.lock")  # another process died with Optuna's lock
    (tmp_path / "taken.log").write_text("these are my notes\n")
    search = begin("mine", trials=5)
    tracks = [f"optuna:{tmp_path / name}.log" for name in ("hung", "taken")]
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with tracking(search.saved.folder, tracks, patience=0.5):
            drive(search, evaluate=evaluated)
            assert time.monotonic() - began < 5  # while one hangs
            wait_for(lambda: len(caught) == 1)  # the failure is told at once
    assert rows(search) == rows(plain)
    texts = sorted(str(warning.message) for warning in caught)
    assert len(texts) == 2
    assert "hung.log is given up (it does not answer); the run continues" in texts[0]
    assert "taken.log is no journal of Optuna's" in texts[1]
    assert f"`evo-tune resume {search.saved.folder} --track {tracks[0]}` writes it afterwards" in texts[0]
    assert (tmp_path / "taken.log").read_text() == "these are my notes\n"


@pytest.mark.slow
def test_resume_tracks_a_finished_run(quick: Path, tmp_path: Path) -> None:
    def run(*words: str) -> None:
        words = (*words, "--slots", "1", "--no-report", "--quiet", "--store", str(tmp_path / "store"))
        assert CliRunner().invoke(cli, words, standalone_mode=False).exception is None

    run("run", str(quick), "--trials", "3", "--final-seeds", "0", "--name", "mine")
    run("resume", "mine", "--track", f"optuna:{tmp_path / 'study.log'}")
    assert states(tmp_path / "study.log") == ["COMPLETE"] * 3


@pytest.mark.parametrize("track", ["optuna", "optuna:", "mlflow:x", ":x"])
def test_a_wrong_track_is_refused_before_a_run_is_made(track: str, quick: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["run", str(quick), "--store", str(tmp_path / "store"), "--track", track])
    assert isinstance(result.exception, OptionError)
    assert "expected tensorboard:DIR, optuna:FILE or wandb:DIR" in str(result.exception)
    assert not (tmp_path / "store").exists()
