"""What 1.0.0 and 1.1.0 wrote is opened, continued or refused as docs/stability.md promises.

`written_by_1_0_0` was made with the release: `runs/` (a language model, a function with 10 trials, a script with
pruning, a table whose process was killed in the middle), `models/` exported by `evo-tune export` with their
predictions for the data beside them, the program `tune.py`, and its list of public names, `public.txt`.

`written_by_1_1_0` has more runs and models, made with that release from the same files. The language model has options
that version 2 lacks; the function and the script are searched in proposal order; the script has a constraint, and the
table families of models.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from evo_tune import Search, load
from evo_tune.cli import cli
from evo_tune.errors import EvoTuneError, StoreError
from evo_tune.loop.code import hashes_of
from evo_tune.options.binding import refused_values
from evo_tune.options.declare import without_dropped
from evo_tune.plugins.find import find_evaluator
from evo_tune.plugins.strategy import Strategy
from evo_tune.settings import RunSettings, SessionSettings
from evo_tune.store.manifest import read_manifest
from evo_tune.training.recipe.language import LanguageOptions
from evo_tune.trust.decide import digest
from tests.journals import events_of, write_events

SAVED = Path(__file__).parent / "written_by_1_0_0"
LATER = SAVED.with_name("written_by_1_1_0")
CURRENT_NAMES = Path(__file__).parent / "public.txt"
CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"

RUNS = {"language": (6, 0.24086), "function": (10, None), "script": (10, 0.0255), "table": (3, None)}
RUNS_1_1 = {"language-1.1": (4, 0.0), "function-1.1": (8, None), "script-1.1": (6, 0.0166), "table-1.1": (5, 0.27502)}
"""Trials of each run, and the difference of its final comparison."""


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable copy of what 1.0.0 and 1.1.0 wrote, as the current folder."""
    folder = tmp_path / "old"
    shutil.copytree(SAVED, folder)
    shutil.copytree(LATER, folder, dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # this machine has not seen the runs
    return folder


def evo_tune(*words: str) -> tuple[int, str]:
    """Return the exit code and the output of a command."""
    result = CliRunner().invoke(cli, [*words], catch_exceptions=False, standalone_mode=False)
    return int(result.return_value or 0), result.output


# ---------------------------------------------------------------------------------------------------------
# Runs


@pytest.mark.parametrize("name", RUNS | RUNS_1_1)
def test_a_run_is_shown_as_it_was(saved: Path, name: str) -> None:
    trials, difference = (RUNS | RUNS_1_1)[name]
    run = load(saved / "runs" / name)
    assert len(run.trials) == trials
    recorded = [json.loads(line) for line in (saved / "runs" / name / "_journal.jsonl").read_text().splitlines()]
    values = {row["id"]: row["outcome"]["metrics"]["val_loss"] for row in recorded if row["event"] == "recorded"}
    assert {trial.candidate.id: trial.outcome.metrics["val_loss"] for trial in run.trials} == values
    for command in (["status"], ["show"], ["best"], ["report", "-o", "page.html"]):
        code, output = evo_tune(command[0], name, "--store", "runs", *command[1:])
        assert code == 0, output
    assert (saved / "page.html").stat().st_size > 10_000
    assert difference is None or f"{difference:.5f}" in (saved / "page.html").read_text(encoding="utf-8")


def test_all_runs_are_listed(saved: Path) -> None:
    assert all(name in evo_tune("list", "--store", "runs")[1] for name in RUNS | RUNS_1_1)


@pytest.mark.parametrize("name", RUNS)
def test_verify_says_that_results_of_1_0_0_are_not_bound(saved: Path, name: str) -> None:
    code, output = evo_tune("verify", name, "--store", "runs", "--trust")
    if name == "script":  # since then the strategy proposes other genomes, and other trials are trained in full
        assert "trial 7: recorded lr=0.00033898 depth=2" in output
        assert "trial 8: recorded stop_if ((0.125, 'val_loss', 1.0509)," in output
        assert (code, "script: 2 of 10 proposals do not agree" in output) == (1, True), output
    else:
        assert (code, f"all {4 if name == 'table' else RUNS[name][0]} proposals agree" in output) == (0, True), output
    assert "results not bound: version 1.0 wrote the run" in output
    assert name == "table" or "files agree with the journal" in output  # it has none yet


@pytest.mark.parametrize("name", RUNS_1_1)
def test_a_run_of_1_1_0_is_verified(saved: Path, name: str) -> None:
    code, output = evo_tune("verify", name, "--store", "runs", "--trust")
    agrees = f"all {RUNS_1_1[name][0]} proposals agree" in output
    assert (code, agrees or "which this version no longer has" in output) == (0, True), output
    assert "results not known here" in output
    assert "files agree with the journal" in output


def resume(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evo_tune", "resume", name, "--store", "runs", "--trust", "--slots", "1", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "trials"),
    [
        ("script", ["--trials", "12"], 12),
        ("table", ["--accept-changes"], 8),  # the rest of what was begun, with the trial that was killed
        ("language", ["--accept-changes", "--generations", "3"], 9),  # without the genes that are new since
        ("function-1.1", ["--accept-changes", "--trials", "10"], 10),  # its file is that of 1.0.0
        ("script-1.1", ["--trials", "8"], 8),
        ("table-1.1", ["--accept-changes", "--trials", "6"], 6),
    ],
)
def test_a_run_continues(saved: Path, name: str, words: list[str], trials: int) -> None:
    before = [(trial.candidate.genome, trial.outcome.metrics) for trial in load(saved / "runs" / name).trials]
    done = resume(name, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    after = load(saved / "runs" / name).trials
    assert len(after) == trials
    assert [(trial.candidate.genome, trial.outcome.metrics) for trial in after][: len(before)] == before
    assert {frozenset(trial.candidate.genome) for trial in after} == {frozenset(before[0][0])}
    assert evo_tune("verify", name, "--store", "runs", "--trust")[0] == (name == "script")  # as before


DROPPED = {
    "settings": (RunSettings, "--old-setting"),
    "strategy_options": (Strategy, "-s old_setting"),
    "options": (LanguageOptions, "-o old_setting"),
    "session": (SessionSettings, "--old-setting"),
}
"""Where a run has values, the class that declares them, and a name that this version does not have, as typed."""


@pytest.mark.parametrize(("place", "value"), [*zip(DROPPED, [3, True, "some text", None], strict=True)])
def test_a_run_with_a_dropped_value_opens_and_says_what_is_gone(
    saved: Path, place: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, flag = DROPPED[place]
    folder = saved / "runs" / "language"
    if place == "session":
        write_events(folder, [_with_old_setting(event, value) for event in events_of(folder)])
    else:
        manifest = json.loads((folder / "_run.json").read_text())
        manifest[place]["old_setting"] = value
        (folder / "_run.json").write_text(json.dumps(manifest))
    words = ("--store", "runs", "--trust")
    shown = f"{flag}{' ' if flag.startswith('--') else '='}{value}"
    dropped = dict(group.dropped)
    for effect in (True, False):
        monkeypatch.setattr(group, "dropped", {**dropped, "old_setting": "another value" if effect else value})
        for command in ("status", "show", "best", "report"):
            assert evo_tune(command, "language", *words[:2])[0] == 0
        assert "language" in evo_tune("list", *words[:2])[1]
        code, output = evo_tune("verify", "language", *words)
        assert (code, f"{shown}, which this version no longer has" in output) == (0, effect and place != "session")
        assert "proposals agree" in output
        # The limits are reached, so a run that continues trains nothing.
        if effect and place != "session":
            with pytest.raises(
                StoreError, match=f"no longer supported: {re.escape(shown)}; .* or start a new run"
            ) as error:
                Search.resume("language", store="runs", trust=True, accept_changes=True, slots=1)
            assert len(str(error.value).splitlines()) == 1
        else:
            with warnings.catch_warnings(record=True) as given:
                warnings.simplefilter("always")
                Search.resume("language", store="runs", trust=True, accept_changes=True, slots=1).close()
            messages = [str(warning.message) for warning in given]
            assert any(f"{shown}, which this version no longer has" in text for text in messages) == effect, messages


def _with_old_setting(event: dict[str, Any], value: Any) -> dict[str, Any]:
    return {**event, "session": {**event["session"], "old_setting": value}} if "session" in event else event


@pytest.mark.parametrize("usual", [3, 4])
def test_a_run_with_a_dropped_setting_is_still_the_one_that_the_user_began(
    saved: Path, usual: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved / "runs" / "function-1.1" / "_run.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["old_setting"] = 3
    path.write_text(json.dumps(manifest))
    monkeypatch.setattr(RunSettings, "dropped", {**RunSettings.dropped, "old_setting": usual})
    remembered = digest(manifest)  # by the version that wrote it
    assert hashes_of(read_manifest(path.parent), {})["_run.json"] == remembered


def test_a_run_whose_choice_is_gone_says_so(saved: Path) -> None:
    folder = saved / "runs" / "language"
    manifest = json.loads((folder / "_run.json").read_text())
    manifest["options"]["ffn"] = "gone"
    (folder / "_run.json").write_text(json.dumps(manifest))
    assert (
        "-o ffn=gone, which this version no longer has"
        in evo_tune("verify", "language", "--store", "runs", "--trust")[1]
    )
    with pytest.raises(StoreError, match=r"no longer supported: -o ffn=gone; .* use the earlier version"):
        Search.resume("language", store="runs", trust=True, accept_changes=True, slots=1)


def test_options_that_version_2_lacks_are_named(saved: Path) -> None:
    """While this version has them all, the run continues."""
    values, plugin = read_manifest(saved / "runs" / "language-1.1").options, find_evaluator("language_model")
    gone = refused_values(without_dropped(plugin.options_type, values), plugin.options, "-o")
    with pytest.raises(StoreError) if gone else contextlib.nullcontext() as error:
        Search.resume("language-1.1", store="runs", trust=True, accept_changes=True, slots=1).close()
    assert all(flag in str(error.value) for flag in gone.values()) if gone else True


@pytest.mark.parametrize("name", ["language", "table"])
def test_a_run_of_a_changed_evaluator_continues_only_by_a_flag(saved: Path, name: str) -> None:
    journal = (saved / "runs" / name / "_journal.jsonl").read_bytes()
    with pytest.raises(StoreError, match=r"--accept-changes continues nevertheless$"):
        evo_tune("resume", name, "--store", "runs", "--trust", "--slots", "1", "--generations", "3")
    assert (saved / "runs" / name / "_journal.jsonl").read_bytes() == journal


def test_a_program_makes_the_same_trials(saved: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "tune.py", "new", "10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(10, " in done.stdout
    old, new = (load(saved / store / "function") for store in ("runs", "new"))
    assert new.trials[0].candidate.genome == old.trials[0].candidate.genome  # the default
    assert [*new.frame().columns][: len(old.frame().columns)] == [*old.frame().columns]


# ---------------------------------------------------------------------------------------------------------
# Exported models


def predict(model: str, data: str, *words: str) -> pd.DataFrame:
    code, output = evo_tune("predict", f"models/{model}", data, "--output", "new.csv", *words)
    assert code == 0, output
    return pd.read_csv("new.csv")


DATA = {
    **{name: f"{name}.csv" for name in ("classes", "numbers", "texts", "series")},
    "images": "digits",
    "classes-1.1": "classes.csv",
    "classes-reglu-1.1": "classes.csv",
    "images-cls-1.1": "digits",
    "gated-1.1": "words.txt",  # swiglu, rmsnorm, softcap, tied=false, window_pattern, rope_base, residual_scaling
    "fixed-1.1": "words.txt",  # relu2, bias, position=sinusoidal, param=mup
}
"""Data of each model; those of 1.1.0 after the first have layers that no training of version 2 builds."""


@pytest.mark.parametrize(("name", "data"), DATA.items())
def test_a_model_predicts_as_before(saved: Path, name: str, data: str) -> None:
    old, new = pd.read_csv(f"models/{name}.csv"), predict(name, data)
    assert [*new.columns] == [*old.columns]
    for column in old.columns:
        if old[column].dtype.kind == "f":
            np.testing.assert_allclose(new[column], old[column], rtol=1e-3, atol=1e-4, err_msg=column)
        else:
            assert [*new[column]] == [*old[column]]


@pytest.mark.parametrize("name", ["words", "words-1.1"])
def test_a_language_model_writes_as_before(saved: Path, name: str) -> None:
    words = ("--prompt", "the cat", "--length", "20", "--temperature", "0.01")
    code, output = evo_tune("predict", f"models/{name}", *words)
    assert code == 0, output
    assert output.rstrip("\n") == Path(f"models/{name}.txt").read_text(encoding="utf-8").rstrip("\n")


@pytest.mark.parametrize(("field", "value"), [("ffn", "new"), ("ffn_multiple", "8"), ("unknown", 0)])
def test_a_model_with_parts_that_no_version_has_is_refused_in_one_line(saved: Path, field: str, value: Any) -> None:
    path = Path("models/gated-1.1/config.json")
    config = json.loads(path.read_text())
    config["model"][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(EvoTuneError, match="expected ") as error:
        evo_tune("predict", "models/gated-1.1", "words.txt")
    assert len(str(error.value).splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------
# Public names

REMOVED = {
    "evo-tune schedule",  # `Schedule` does it from Python
    "evo-tune coordinates",  # it is a test
    "evo-tune: schedule",
    "evo-tune: coordinates",
    "evo-tune new: --from",  # docs/scripts.md has the command
    "evaluator language_model -o: grow_from",  # no figure supported it
    "evaluator language_model -o: grow_share",
}
"""Public names of 1.0.0 that were gone in 1.1, as CHANGELOG.md says."""

MOVED = {"evo_tune.prediction.": "evo_tune.training.prediction.", "evo_tune.report.loading.": "evo_tune.report.page."}


def public_names(path: Path) -> dict[str, list[str]]:
    """Return the names of each line of a list of public names."""
    names: dict[str, list[str]] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line[:1] not in ("", " ", "#"):
            key, _, line = line.partition(":")
            names[key] = []
        if key and not line.startswith("#"):
            names[key] += [word.strip() for word in line.split(",") if word.strip()]
    return names


def test_the_public_names_of_1_0_0_are_there_in_their_order() -> None:
    current, gone = public_names(CURRENT_NAMES), set()
    for key, names in public_names(SAVED / "public.txt").items():
        if key.startswith("JSON ") or "(provisional)" in key:  # names of types of JSON are not public, their keys are
            continue
        if key.startswith("evo_tune.prediction.") and key.endswith("Model()"):  # `load_model` makes these objects
            continue
        new_key = next((new + key.removeprefix(old) for old, new in MOVED.items() if key.startswith(old)), key)
        if new_key not in current:
            gone.add(key)
            continue
        names = [name for name in names if not name.startswith("**")]  # the name is no part of a call
        gone |= {f"{key}: {name}" for name in names if name not in current[new_key]}
        if key.endswith("()"):
            present = [name for name in names if name in current[new_key]]
            assert [name for name in current[new_key] if name in names] == present, f"other order: {key}"
    unreleased = CHANGELOG.read_text(encoding="utf-8").partition("## [1.1.0]")[0]
    later = {name for name in gone - REMOVED if not re.search(rf"\b{re.escape(name.split()[-1])}\b", unreleased)}
    assert gone >= REMOVED
    assert not later, "say in CHANGELOG.md what to use instead"
