"""Every kind of bad input: one line that says what was given, what was expected and what to do."""

from __future__ import annotations

import os
import pty
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
    "given", [["-o", "flops=-1"], ["-o", "tokens=1000", "-o", "seconds=1"], ["-o", "size=huge"], ["-o", "tokens=1.5"]]
)
def test_options_of_the_language_model(typed: Typed, given: list[str]) -> None:
    says(typed("run", "language_model", *given), 2, given[-1].partition("=")[0])


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


def test_an_evaluator_that_is_gone(typed: Typed, small_run: str, folder: Path) -> None:
    (folder / "quick.py").rename(folder / "moved.py")
    says(typed("resume", small_run), 2, "quick.py", "check the path", "--evaluator PATH")
    assert typed("show", small_run).code == 0, "looking never needs the evaluator"
    assert typed("best", small_run).code == 0
    assert typed("list").code == 0


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
