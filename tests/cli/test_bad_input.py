"""Every kind of bad input: one line that says what was given, what was expected and what to do."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evo_tune.forecast.timing import Timing
from evo_tune.loop import budget
from evo_tune.store.manifest import FORMAT
from tests.cli.conftest import QUICK, Result, Typed


def says(result: Result, code: int, *words: str) -> None:
    """Check exit code and words, that it is one line, and that nothing was trained."""
    assert result.code == code, result
    assert result.out == "", result
    lines = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result
    assert "Traceback" not in result.err
    for word in words:
        assert word in lines[0], result


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["run", "langage_model"], ["langage_model", "did you mean language_model", "evo-tune new"]),
        (["run", "no/such.py"], ["no/such.py", "No such file", "check the path"]),
        (["run", "quick.py", "-o", "biass=1"], ["biass", "did you mean bias", "expected one of sleep, bias"]),
        (["run", "quick.py", "-o", "bias=much"], ["bias=much", "a whole number"]),
        (["run", "quick.py", "-o", "bias"], ["-o NAME=VALUE"]),
        (["run", "quick.py", "-o", "bias=1", "-o", "bias=2"], ["given twice"]),
        (["run", "quick.py", "--gene", "dept=int(1,2)"], ["dept", "did you mean depth"]),
        (["run", "quick.py", "--gene", "depth=many(1,2)"], ["many(1,2)", "log(LOW,HIGH)"]),
        (["run", "quick.py", "--gene", "x=float(2,1)"], ["low must be below high"]),
        (["run", "quick.py", "--strategy", "gaa"], ["gaa", "did you mean ga"]),
        (["run", "quick.py", "-s", "elite=2"], ["elite", "expected one of"]),
        (["run", "quick.py", "--strategy", "ga", "-s", "generational=perhaps"], ["true or false"]),
        (["run", "quick.py", "--objective", "los:min"], ["los", "did you mean loss", "cost"]),
        (["run", "quick.py", "--objective", "loss"], ["METRIC:min or METRIC:max"]),
        (["run", "quick.py", "--objective", "loss:min", "--objective", "cost:min", "--strategy", "ga"], ["nsga2"]),
        (["run", "quick.py", "--name", "../up"], ["'../up'"]),
        (["run", "quick.py", "--warm-start", "none.csv"], ["none.csv", "expected a .csv or .json file"]),
        (["run", "quick.py", "--config", "none.toml"], ["none.toml", "No such file"]),
        (["run", "quick.py", "--devices", "97"], ["97"]),
        (["run", "quick.py", "--fidelity", "1/3,1/9,1"], ["--fidelity 1/3,1/9,1", "increasing", "1/9,1/3,1"]),
        (["run", "quick.py", "--fidelity", "1/3,1"], ["--fidelity", "evaluator quick", "SUPPORTS = ['budget']"]),
        (["run", "quick.py", "--subject-to", "costs<=3"], ["costs", "did you mean cost", "expected one of loss, cost"]),
        (["evaluate", "quick.py", "-g", "depth=9"], ["gene depth", "9", "from 1 to 8"]),
        (["evaluate", "quick.py", "-g", "deep=1"], ["deep", "expected x, depth, kind"]),
        (["run", "quick.py", "--depth", "3"], ["--depth", "-o NAME=VALUE", "--gene NAME=VALUE", "evo-tune run --help"]),
        (["frobnicate"], ["frobnicate", "expected one of run"]),
    ],
)
def test_usage(typed: Typed, folder: Path, given: list[str], words: list[str]) -> None:
    says(typed(*given), 2, *words)
    assert not list(folder.glob("populations/*/_journal.jsonl")), "nothing may be born of bad input"


@pytest.mark.parametrize("given", [["run", "quick.py", "--trials", "0"], ["run", "quick.py", "--order", "random"]])
def test_usage_that_click_finds(typed: Typed, given: list[str]) -> None:
    result = typed(*given)
    assert result.code == 2
    assert "Error: Invalid value for" in result.err


def test_a_number_that_is_none_is_called_so(typed: Typed) -> None:
    assert "'--trials': 'abc' is not a valid whole number" in typed("run", "quick.py", "--trials", "abc").err
    assert "'--hours': 'x' is not a valid number" in typed("run", "quick.py", "--hours", "x").err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("missing.txt", ["missing.txt"]),
        ("empty.txt", ["empty"]),
        ("short.txt", ["short.txt", "bytes"]),
        ("hollow", ["hollow"]),
    ],
)
def test_data_of_the_language_model(typed: Typed, folder: Path, data: str, words: list[str]) -> None:
    (folder / "empty.txt").touch()
    (folder / "short.txt").write_text("too short")
    (folder / "hollow").mkdir()
    says(typed("run", "language_model", "-o", f"data={data}"), 2, *words)


@pytest.mark.parametrize(
    "given",
    [["-o", "flops=-1"], ["-o", "tokens=1000", "-o", "seconds=1"], ["-o", "size=huge"], ["-o", "tokens=1.5"]],
)
def test_options_of_the_language_model(typed: Typed, given: list[str]) -> None:
    says(typed("run", "language_model", *given), 2, given[-1].partition("=")[0])


def test_two_objectives_of_which_one_is_given_twice(typed: Typed) -> None:
    says(typed("run", "quick.py", "--objective", "loss:min", "--objective", "loss:max"), 2, "given twice")


def test_warm_start_names_the_genes(typed: Typed, folder: Path) -> None:
    (folder / "old.csv").write_text("x,depth,colour\n0.25,3,red\n")
    says(typed("run", "quick.py", "--warm-start", "old.csv"), 2, "unknown gene colour", "genome 1")
    (folder / "old.csv").write_text("x,depth\n0.25,3\n")
    says(typed("run", "quick.py", "--warm-start", "old.csv"), 2, "missing gene kind", "--fill-defaults")
    words = ["--fill-defaults", "--trials", "3", "--quiet"]
    assert typed("run", "quick.py", "--warm-start", "old.csv", *words).code == 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("def evaluate(genome, context)\n    pass\n", ["broken.py:1", "SyntaxError"]),
        ("import no_such_module\n", ["broken.py:1", "no_such_module"]),
        (QUICK.replace("SPACE =", "SPACES ="), ["broken.py", "no SPACE"]),
        (QUICK.replace('Minimize("loss")', '"loss"'), ["OBJECTIVES", "Minimize"]),
        (QUICK.replace("evaluate(genome, context, *", "evaluate(genome, *"), ["broken.py:11", "1 positional"]),
        (QUICK.replace("Float(-1, 1,", "Float(1, -1,"), ["broken.py:6", "low must be below high"]),
    ],
)
def test_a_broken_evaluator(typed: Typed, folder: Path, broken: str, words: list[str]) -> None:
    (folder / "broken.py").write_text(broken)
    says(typed("run", "broken.py"), 2, *words)
    assert not (folder / "populations").exists()


def test_an_evaluator_that_always_fails_stops_the_run(typed: Typed, folder: Path) -> None:
    (folder / "bad.py").write_text(QUICK.replace('return {"loss"', 'return {"lost"'))
    result = typed("run", "bad.py", "--population", "4", "--trials", "40", "--quiet", "--name", "bad")
    assert result.code == 1, result
    assert "evaluate returned no 'loss' (it returned lost, cost)" in result.err
    (folder / "bad.py").write_text(QUICK)
    assert typed("resume", "bad", "--accept-changes", "--trials", "8", "--quiet").code == 0
    table = pd.read_parquet(folder / "populations" / "bad")
    assert (table.status == "ok").sum() >= 1


def test_a_store_that_cannot_be_written(typed: Typed, folder: Path) -> None:
    (folder / "file").touch()
    says(typed("run", "quick.py", "--store", "file/pops"), 1, "file/pops", "choose another --store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write where modes forbid it")
def test_a_read_only_store(typed: Typed, folder: Path) -> None:
    (folder / "pops").mkdir(mode=0o500)
    says(typed("run", "quick.py", "--store", "pops"), 1, "Permission denied", "choose another --store")


@pytest.mark.slow
def test_a_full_store_stops_the_run_and_loses_nothing(typed: Typed, folder: Path) -> None:
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from evo_tune.cli import main\n"
        "import evo_tune.loop.search, evo_tune.store.table, pyarrow.parquet, deap.tools\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))\n"
        "sys.argv = ['evo-tune', 'run', 'quick.py', '--name', 'full', '--trials', '60', '--quiet', '--slots', '1']\n"
        "main()"
    )
    own = {"XDG_STATE_HOME": str(folder / "state")}  # what other tests left there may be more than such a file may hold
    done = subprocess.run(
        [sys.executable, "-c", limited],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **own},
    )
    says(Result(done.returncode, done.stdout, done.stderr), 1, "_journal.jsonl", "evo-tune resume")
    before = typed("show", "full", "--format", "csv").out.splitlines()
    assert len(before) > 2
    assert typed("resume", "full", "--quiet", "--final-seeds", "0", env=own).code == 0
    after = typed("show", "full", "--format", "csv").out.splitlines()
    kept = {line.rsplit(",", 1)[0] for line in before}  # all but the column `survivor`, which may change
    assert kept <= {line.rsplit(",", 1)[0] for line in after}
    assert len(after) == 61


@pytest.mark.slow
def test_a_name_that_exists(typed: Typed, small_run: str) -> None:
    says(typed("run", "quick.py", "--name", small_run), 2, "exists", f"evo-tune resume {small_run}")
    says(typed("resume", small_run, "--as", small_run), 2, "exists")


@pytest.mark.slow
def test_a_run_that_does_not_exist(typed: Typed, small_run: str) -> None:
    for command in ("show", "best", "verify", "resume"):
        says(typed(command, "other"), 1, "'other'", "it holds one")
    says(typed("show", "--store", "nowhere"), 1, "nowhere", "evo-tune run")


@pytest.mark.slow
def test_an_evaluator_that_changed(typed: Typed, small_run: str, folder: Path) -> None:
    (folder / "quick.py").write_text(QUICK + "\n# changed\n")
    says(typed("resume", small_run, "--generations", "3"), 2, "quick.py", "has changed", "--accept-changes")
    says(typed("verify", small_run), 2, "quick.py", "has changed", "--trust")
    assert typed("resume", small_run, "--generations", "3", "--accept-changes", "--quiet").code == 0
    assert typed("resume", small_run, "--generations", "4", "--quiet").code == 0, "accepted once is accepted"


def test_an_evaluator_that_is_gone(typed: Typed, small_run: str, folder: Path) -> None:
    (folder / "quick.py").rename(folder / "moved.py")
    says(typed("resume", small_run), 2, "quick.py", "check the path", "--evaluator PATH")
    assert typed("show", small_run).code == 0, "looking never needs the evaluator"
    assert typed("best", small_run).code == 0
    assert typed("list").code == 0


def test_a_torn_journal(typed: Typed, small_run: str, folder: Path) -> None:
    journal = folder / "populations" / small_run / "_journal.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b'"recorded"' in line)
    journal.write_bytes(b"".join(lines[:last]) + lines[last][:40])
    assert typed("show", small_run).code == 0
    result = typed("resume", small_run, "--quiet")
    assert result.code == 0, result
    assert "torn tail of 40 bytes" in result.err
    assert len(pd.read_parquet(folder / "populations" / small_run)) == 8
    verified = typed("verify", small_run)
    assert "all 8 proposals agree" in verified.out
    assert "results changed since this machine last wrote the run" in verified.err, "a complete run lost a record"


def test_a_journal_damaged_in_the_middle(typed: Typed, small_run: str, folder: Path) -> None:
    journal = folder / "populations" / small_run / "_journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:5], b"garbage\n", *lines[6:]]))
    says(typed("resume", small_run), 1, "line 6 is damaged", "head -n 5")


def test_a_parquet_file_cut_in_half_is_made_anew(typed: Typed, small_run: str, folder: Path) -> None:
    path = folder / "populations" / small_run / "trials-0000.parquet"
    before = pd.read_parquet(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert typed("resume", small_run, "--quiet").code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(path), before)


@pytest.mark.slow
def test_two_processes_on_one_run(typed: Typed, folder: Path) -> None:
    words = ["run", "quick.py", "--name", "busy", "-o", "sleep=0.1", "--trials", "1000", "--quiet", "--slots", "1"]
    first = subprocess.Popen([sys.executable, "-m", "evo_tune", *words], cwd=folder)
    try:
        journal = folder / "populations" / "busy" / "_journal.jsonl"
        deadline = time.monotonic() + 30
        while not (journal.exists() and b'"recorded"' in journal.read_bytes()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        says(typed("resume", "busy"), 1, "in use by another process", "--as")
        assert typed("show", "busy").code == 0, "looking is always allowed"
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=30) == 130
    assert typed("resume", "busy", "--trials", "4", "--quiet", "--final-seeds", "0").code == 0


def test_a_manifest_of_the_future(typed: Typed, small_run: str, folder: Path) -> None:
    manifest = folder / "populations" / small_run / "_run.json"
    manifest.write_text(manifest.read_text().replace(f'"format_version": {FORMAT}', '"format_version": 9'))
    says(typed("show", small_run), 1, "format 9", f"format {FORMAT}")
    shutil.copy(folder / "quick.py", manifest)
    says(typed("resume", small_run), 1, "_run.json is damaged")


@pytest.mark.slow
def test_a_closed_terminal_ends_the_run_as_interrupted(folder: Path, typed: Typed) -> None:
    words = ["run", "quick.py", "--name", "shut", "-o", "sleep=0.15", "--trials", "1000"]
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", sys.executable, "-m", "evo_tune", *words]
    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    journal = folder / "populations" / "shut" / "_journal.jsonl"
    deadline = time.monotonic() + 30
    while not (journal.exists() and b'"recorded"' in journal.read_bytes()):
        assert time.monotonic() < deadline
        os.read(ours, 1 << 16)
    os.close(ours)
    process.wait(timeout=30)
    assert '"event":"ended","reason":"interrupted"' in journal.read_text()
    assert typed("resume", "shut", "--trials", "6", "--quiet", "--final-seeds", "0").code == 0


def test_ctrl_c_while_steps_are_timed_starts_no_run(
    typed: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(slots: list[Any], genomes: object, timing: Timing) -> tuple[dict[int, Any], Any]:
        signal.raise_signal(signal.SIGINT)
        while not timing.stopping():
            time.sleep(0.01)
        return {}, None

    monkeypatch.setattr(budget, "time_genomes", interrupted)
    done = typed("run", "-o", "seconds=1", "--trials", "1")
    assert done.code == 130, done
    assert done.err.endswith("Error: interrupted while a few steps were timed: no run was started\n")
    assert not (folder / "populations").exists() or not list((folder / "populations").glob("*/_run.json"))


@pytest.mark.slow
def test_ctrl_c_once_finishes_what_is_in_flight(folder: Path, typed: Typed) -> None:
    words = ["run", "quick.py", "--name", "cut", "-o", "sleep=0.15", "--trials", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "evo_tune", *words],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    journal = folder / "populations" / "cut" / "_journal.jsonl"
    deadline = time.monotonic() + 30
    while not (journal.exists() and b'"recorded"' in journal.read_bytes()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert "evo-tune resume cut" in err
    assert "press Ctrl-C again to stop at once" in out
    assert "|   evo-tune resume cut   |" in out, "its limit has not been reached"
    text = journal.read_text()
    assert text.count('"proposed"') == text.count('"recorded"'), "what was in flight is finished and recorded"
    assert typed("resume", "cut", "--trials", "6", "--quiet", "--final-seeds", "0").code == 0
    assert typed("verify", "cut").code == 0
