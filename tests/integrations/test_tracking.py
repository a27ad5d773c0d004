"""`--track`: what other tools are told while a run goes on, and that none of it can hold the run up."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from evo_tune.cli import cli
from evo_tune.errors import OptionError, UsageError
from evo_tune.integrations.converting import convert, follow, sink, tracking
from evo_tune.integrations.tensorboard import EVENTS
from evo_tune.store.heartbeat import running_curves as read_in_flight
from evo_tune.store.run import Run
from tests.conftest import drive, rows
from tests.integrations.conftest import Begin, evaluated, studies

pytestmark = [pytest.mark.xdist_group("tools"), pytest.mark.extended]

Resume = Callable[..., Any]


def followed(run: Run, track: str) -> None:
    """Write what there is of a run, as its tracker does at its end."""
    ended = threading.Event()
    ended.set()
    follow(run.folder, track, ended)


def told(path: Path) -> list[tuple[Any, ...]]:
    """Return what a journal of Optuna's has of every trial, but for its times."""
    storage = studies(path)
    trials = storage.get_all_trials(0) if storage.get_all_studies() else []  # it may be made and not yet written
    names = ("number", "state", "values", "params", "intermediate_values", "user_attrs", "system_attrs")
    return [tuple(getattr(trial, name) for name in names) for trial in trials]


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_can_be_seen_while_it_goes_on_and_whole_at_its_end(begin: Begin, tmp_path: Path) -> None:
    search = begin("mine", trials=9)
    journal, folder = tmp_path / "study.log", tmp_path / "boards"
    with tracking(search.saved.folder, [f"optuna:{journal}", f"tensorboard:{folder}"], patience=60):
        for _ in range(4):
            candidate = search.ask()
            assert candidate is not None
            search.tell(candidate, evaluated(search, candidate))
        search.ask()
        wait_for(lambda: journal.is_file() and len(told(journal)) == 5)
        assert [state.name for _, state, *_ in told(journal)] == ["COMPLETE"] * 4 + ["RUNNING"]
        wait_for(lambda: (folder / "mine" / "trial-00003").is_dir())
        in_flight(search.saved, 4, [(0.25, {"loss": 0.8})])
        wait_for(lambda: told(journal)[4][4] == {250: 0.8})  # and no result came meanwhile
        in_flight(search.saved, 4, [])
        search._queue.requeue_unfinished()
        drive(search, evaluate=evaluated)
    convert(search.saved, "optuna", tmp_path / "after.log")
    assert told(journal) == told(tmp_path / "after.log")
    assert len(list(folder.glob("mine/trial-*/*tfevents*"))) == 9


def in_flight(run: Run, id: int, points: list[tuple[float, dict[str, float | None]]]) -> None:
    """Tell of a training in flight, as its worker does."""
    (run.folder / "_trials").mkdir(exist_ok=True)
    (run.folder / "_trials" / ".worker-7.json").write_text(json.dumps({"trial": id, "curve": points}))


def scalars(folder: Path, id: int) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard reads of a trial: (step, value) by metric."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "mine" / f"trial-{id:05}"))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, round(event.value, 6)) for event in events.Scalars(tag)] for tag in tags}


def test_points_of_a_training_in_flight_are_written_as_they_come(begin: Begin, resume: Resume, tmp_path: Path) -> None:
    search = begin("mine", trials=4)
    run, journal, folder = search.saved, tmp_path / "study.log", tmp_path / "boards"
    candidate = search.ask()
    assert candidate is not None
    whole = evaluated(search, candidate)
    sinks = [sink("optuna", journal, "--track"), sink("tensorboard", folder, "--track")]

    def write() -> tuple[dict[int, float], dict[str, list[tuple[int, float]]]]:
        for one in sinks:
            one.update(Run.open(run.folder), read_in_flight(run.folder))
        [(_, state, *_, told_so_far, _, _)] = [row for row in told(journal) if row[0] == candidate.id]
        assert state.name == ("RUNNING" if candidate.id not in Run.open(run.folder).outcomes else "COMPLETE")
        return told_so_far, scalars(folder, candidate.id)

    in_flight(run, candidate.id, [(0.25, {"loss": 4.0, "grad": 0.25, "bad": None})])
    assert write() == ({250: 4.0}, {"loss": [(250, 4.0)], "grad": [(250, 0.25)]})
    in_flight(run, candidate.id, [*whole.curve[:2]])
    sinks[1] = sink("tensorboard", folder, "--track")  # a run that is taken up again has another tracker
    assert write() == ({250: 4.0, 500: 2.0}, {"loss": [(250, 4.0), (500, 2.0)], "grad": [(250, 0.25), (500, 0.5)]})
    assert write()[1]["loss"] == [(250, 4.0), (500, 2.0)], "nothing is written twice"
    search.tell(candidate, whole)
    (run.folder / "_trials" / ".worker-7.json").unlink()
    values, read = write()
    assert (values, read["loss"]) == (
        {250: 4.0, 500: 2.0, 1000: 1.0},
        [(250, 4.0), (500, 2.0), (1000, 1.0), (1000, 1.0)],
    )
    convert(Run.open(run.folder), "tensorboard", tmp_path / "after")
    convert(Run.open(run.folder), "optuna", tmp_path / "after.log")
    assert read == scalars(tmp_path / "after", candidate.id)
    assert told(journal) == told(tmp_path / "after.log")
    assert [path.name for path in (folder / "mine" / f"trial-{candidate.id:05}").iterdir()] == [EVENTS]


def test_a_resumed_run_goes_on_in_the_same_files(begin: Begin, resume: Resume, tmp_path: Path) -> None:
    run = drive(begin("mine", trials=4), evaluate=evaluated).saved
    journal, folder = tmp_path / "study.log", tmp_path / "boards"
    for track in (f"optuna:{journal}", f"tensorboard:{folder}"):
        followed(run, track)
    assert len(told(journal)) == 4
    run = drive(resume("mine", trials=7), evaluate=evaluated).saved
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*tfevents*")}
    for track in (f"optuna:{journal}", f"tensorboard:{folder}"):
        followed(run, track)
    assert [number for number, *_ in told(journal)] == list(range(7))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(folder.glob("mine/trial-*"))) == 7


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
    journal = tmp_path / "study.log"
    followed(run, f"optuna:{journal}")
    run = drive(resume("mine", trials=30), evaluate=loss).saved
    assert run.widened
    followed(run, f"optuna:{journal}")
    assert [params["batch"] for _, _, _, params, *_ in told(journal)] == [one.genome["batch"] for one in run.candidates]
    kinds = {str(trial.distributions["batch"]) for trial in studies(journal).get_all_trials(0)}
    assert len(kinds) == 1


def test_several_runs_share_a_file_and_never_a_study(begin: Begin, tmp_path: Path) -> None:
    one = drive(begin("one", trials=3), evaluate=evaluated).saved
    two = drive(begin("two", trials=2, seed=5), evaluate=evaluated).saved
    journal, folder = tmp_path / "study.log", tmp_path / "boards"
    for run in (one, two):
        followed(run, f"optuna:{journal}")
        followed(run, f"tensorboard:{folder}")
    assert [len(studies(journal).get_all_trials(study)) for study in (0, 1)] == [3, 2]
    two.folder.rename(two.folder.parent / "older")
    (two.folder.parent / "one").rename(two.folder)  # another run of the same name
    for track in (f"optuna:{journal}", f"tensorboard:{folder}"):
        with pytest.raises(UsageError, match="choose another"):
            followed(two, track)
    assert [len(studies(journal).get_all_trials(study)) for study in (0, 1)] == [3, 2]


@pytest.mark.slow
def test_a_tracker_that_hangs_or_fails_costs_the_run_a_warning(begin: Begin, tmp_path: Path) -> None:
    plain = drive(begin("plain", trials=5), evaluate=evaluated)
    (tmp_path / "hung.log").touch()
    os.symlink("nobody", tmp_path / "hung.log.lock")  # another process died with Optuna's lock
    (tmp_path / "taken.log").write_text("these are my notes\n")
    search = begin("mine", trials=5)
    tracks = [f"optuna:{tmp_path / name}.log" for name in ("hung", "taken")]
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with tracking(search.saved.folder, tracks, patience=0.5):
            drive(search, evaluate=evaluated)
            assert time.monotonic() - began < 5  # while one hangs
            wait_for(lambda: len(said) == 1)  # the one that failed is told of at once
    assert rows(search) == rows(plain)
    texts = sorted(str(one.message) for one in said)
    assert len(texts) == 2
    assert "hung.log is given up (it does not answer); the run continues" in texts[0]
    assert "taken.log is no journal of Optuna's" in texts[1]
    assert "evo-tune convert" in texts[0]
    assert (tmp_path / "taken.log").read_text() == "these are my notes\n"


@pytest.mark.slow
def test_the_command_tracks_in_slots(quick: Path, tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    given = ["run", str(quick), "--trials", "3", "--slots", "1", "--final-seeds", "0", "--no-report", "--quiet"]
    given += ["--store", str(tmp_path / "store"), "--name", "mine", "--track", f"optuna:{journal}"]
    done = CliRunner().invoke(cli, given, standalone_mode=False)
    assert done.exception is None
    assert [state.name for _, state, *_ in told(journal)] == ["COMPLETE"] * 3


@pytest.mark.parametrize("track", ["optuna", "optuna:", "mlflow:x", ":x"])
def test_what_cannot_be_tracked_is_refused_before_anything_is_made(track: str, quick: Path, tmp_path: Path) -> None:
    given = ["run", str(quick), "--store", str(tmp_path / "store"), "--track", track]
    done = CliRunner().invoke(cli, given)
    assert isinstance(done.exception, OptionError)
    assert "expected tensorboard:DIR, optuna:FILE or wandb:DIR" in str(done.exception)
    assert not (tmp_path / "store").exists()
