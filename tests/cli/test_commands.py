"""What each command does and prints, typed as a user types it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from evo_tune.cli import cli, command_module, command_names, commands
from evo_tune.store.journal import seal_line
from tests.cli.conftest import Typed

ROOT = Path(__file__).parents[2]


def test_help_is_light() -> None:
    code = (
        "import sys; sys.argv = ['evo-tune', '--help']\n"
        "from evo_tune.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'deap', 'numpy', 'joblib', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^  ([a-z]+)  ", done.stdout.partition("\nSearch:\n")[2], re.MULTILINE)
    assert sorted(listed) == sorted(command_names())
    assert listed[:2] == ["run", "resume"], "the help begins with what one types first"


def test_evaluators_load_nothing_of_a_run() -> None:
    code = (
        "import sys; sys.argv = ['evo-tune', 'evaluators']\n"
        "from evo_tune.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "rooms = ('dispatch', 'forecast', 'loop', 'report', 'store')\n"
        "heavy = {f'evo_tune.{name}' for name in rooms} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", command_names())
def test_every_command_has_help_and_is_its_file(name: str) -> None:
    assert command_module(name).command.name == name
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert len(re.split("^[A-Z][a-z ]+:$", result.output, flags=re.MULTILINE)[0].splitlines()) >= 3, result.output
    assert not re.search(r"\\(?!\n)", result.output)  # at the end of a line, an example goes on in the next one


def test_a_command_is_found_by_being_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "from evo_tune.cli.help import cli_command",
        "@cli_command('greet', order=45)",
        "def command(output_format):",
        "  'Greet.'",
        "  print('hello in a', output_format)",
    ]
    (tmp_path / "greet.py").write_text("\n".join(lines))
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert re.search(r"^  status .*\n  greet +Greet\.\n  show ", shown, re.MULTILINE), shown
    assert CliRunner().invoke(cli, ["greet"]).output == "hello in a table\n"


def test_an_unknown_command_is_told_which_there_are() -> None:
    with pytest.raises(
        click.UsageError, match=r"no command 'rnu' \(did you mean run\?\): expected one of run, resume, "
    ):
        cli.main(["rnu"], standalone_mode=False)


def typed_in_pages() -> set[str]:
    """Return the word after `evo-tune` wherever README.md and docs/ show it as code."""
    found: set[str] = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
        found |= set(re.findall(r"^ *evo-tune ([a-z]\S*)", fenced, re.MULTILINE))
        found |= set(re.findall(r"^ {4}evo-tune ([a-z]\S*)", text, re.MULTILINE))
        found |= set(re.findall(r"`evo-tune ([a-z][^\s`]*)", text))
    return found


def test_the_pages_show_every_command_and_no_other() -> None:
    assert typed_in_pages() == set(command_names())


def test_checkout_and_module_do_what_the_script_does() -> None:
    for words in (["cli.py"], ["-m", "evo_tune"]):
        done = subprocess.run([sys.executable, *words, "--version"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.startswith("evo-tune, version "), done


@pytest.mark.slow
def test_a_run_prints_best_default_difference_place_and_next(process: Typed, folder: Path) -> None:
    result = process("run", "quick.py", "--name", "one", "--population", "4", "--generations", "3", "--seed", "1")
    assert result.code == 0, result
    assert [line.split()[0] for line in result.out.splitlines() if line.startswith((" best ", " default "))] == [
        "best",
        "default",
    ], result
    for words in ("best", "default", "difference", "12 evaluations", "populations/one", "evo-tune resume one", "±"):
        assert words in result.out, result
    assert result.err == ""
    table = pd.read_parquet(folder / "populations" / "one")
    assert len(table) == 12


def test_quiet_prints_nothing_and_json_only_json(typed: Typed, folder: Path) -> None:
    assert typed("run", "quick.py", "--trials", "3", "--name", "a", "--quiet").out == ""
    result = typed("run", "quick.py", "--trials", "3", "--name", "b", "--format", "json")
    data = json.loads(result.out)
    assert data["run"] == "b"
    assert data["results"] == 3
    assert data["best"]["genome"].keys() == {"x", "depth", "kind"}


def test_looking_at_a_run(typed: Typed, small_run: str) -> None:
    shown = typed("show", small_run)
    assert shown.code == 0, shown
    assert "best loss so far" in shown.out
    assert "results: " in shown.out
    assert json.loads(typed("show", small_run, "--format", "json").out)["results"] == 8
    rows = typed("show", small_run, "--format", "csv").out.splitlines()
    assert len(rows) == 9
    assert rows[0].startswith("id,generation,status,gene.x,")
    best = json.loads(typed("best", small_run, "--format", "json").out)
    assert best["genome"].keys() == {"x", "depth", "kind"}
    assert f"trial {best['id']} of run one" in typed("best").out
    assert [row["run"] for row in json.loads(typed("list", "--format", "json").out)] == [small_run]
    verified = typed("verify", small_run)
    assert verified.code == 0
    assert "all 8 proposals agree" in verified.out


def test_verify_names_a_changed_strategy_and_changed_versions(typed: Typed, folder: Path) -> None:
    from evo_tune.strategies import random

    own = folder / "own.py"
    own.write_text(text := Path(random.__file__).read_text())
    assert typed("run", "quick.py", "--strategy", "own.py", "--trials", "4", "--name", "mine", "--quiet").code == 0
    manifest = folder / "populations" / "mine" / "_run.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**fields, "versions": {**fields["versions"], "numpy": "1.0"}}))
    verified = typed("verify", "mine", "--trust")
    edited = "mine: _run.json does not agree: it is not the one with which the sessions began\n"
    assert (verified.code, verified.err) == (1, edited), "the version has changed no proposal"
    assert "all 4 proposals agree" in verified.out
    changed = text.replace("return unseen", "rng.random()\n        return unseen")
    assert changed != text
    own.write_text(changed)
    assert typed("verify", "mine").code == 2, "it is not executed unasked"
    verified = typed("verify", "mine", "--trust")
    assert verified.code == 1
    assert f"the strategy's file {own} (or a module that it imports) has changed since the run began" in verified.err
    assert f"numpy was 1.0, and is {np.__version__}" in verified.err
    assert len(json.loads(typed("verify", "mine", "--format", "json").out)["notes"]) == 2
    manifest.write_text(json.dumps(fields))
    own.rename(folder / "gone.py")
    for command in ("verify", "resume"):
        gone = typed(command, "mine")
        assert gone.code == 2
        assert "the strategy of the run, 'own.py', is not a file here" in gone.err
        assert "or say where it is now: --strategy PATH" in gone.err
    (folder / "found").mkdir()
    (folder / "found" / "own.py").write_text(text)
    assert typed("verify", "mine", "--strategy", "found/own.py").code == 0


def test_verify_says_what_agrees_what_does_not_and_what_is_not_detected(typed: Typed, folder: Path) -> None:
    words = ["--trials", "4", "--name", "mine", "--quiet", "--no-report", "--final-seeds", "0"]
    assert typed("run", "quick.py", *words).code == 0
    agreed = typed("verify", "mine", "--retrain", "2")
    assert (agreed.code, agreed.err) == (0, "")
    assert agreed.out.splitlines()[:-1] == [
        "mine: all 4 proposals agree with the recorded ones",
        "mine: results unchanged since this machine last wrote the run (14 records)",
        "mine: files agree with the journal",
        "mine: 2 trials trained again, with the same values",
    ]
    assert agreed.out.splitlines()[-1].startswith("not detected: a run that somebody forged as a whole")
    journal = folder / "populations" / "mine" / "_journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    place = max(number for number, line in enumerate(lines) if line.startswith(b'{"event":"recorded"'))
    last = json.loads(lines[place])
    last["outcome"]["metrics"]["loss"] = -1.0
    link = last.pop("sha256_before")
    del last["crc32"]
    lines[place] = seal_line(json.dumps(last).encode(), link) + b"\n"
    journal.write_bytes(b"".join(lines))
    changed = typed("verify", "mine", "--retrain", "4")
    assert changed.code == 1
    assert "mine: all 4 proposals agree" in changed.out, "no later proposal was bred from the last result"
    assert "mine: results changed since this machine last wrote the run" in changed.err
    assert f"mine: record {place + 2} does not follow: one was changed, removed or moved before it" in changed.err
    assert "mine: trials-0000.parquet does not agree: other values in metric.loss" in changed.err
    assert f"trial {last['id']}: recorded loss -1.0, trained again " in changed.err
    row = json.loads(typed("verify", "mine", "--format", "json").out)
    assert (row["results"], row["broken_at"], row["bound_from"]) == ("changed", place + 2, 1)
    assert (
        typed("resume", "mine", "--trials", "5", "--quiet", "--no-report").err.count("is not as this machine left it")
        == 1
    )


def test_a_pareto_front(typed: Typed) -> None:
    words = ["--objective", "loss:min", "--objective", "cost:max", "--trials", "12", "--name", "two", "--quiet"]
    result = typed("run", "quick.py", *words)
    assert result.code == 0, result
    front = json.loads(typed("best", "two", "--format", "json").out)
    losses = [row["metrics"]["loss"] for row in front]
    costs = [row["metrics"]["cost"] for row in front]
    assert losses == sorted(losses)
    assert costs == sorted(costs), "along a front, one objective is paid for with the other"
    assert typed("verify", "two").code == 0


def test_a_file_that_hides_a_bundled_evaluator_is_said_and_commands_that_read_do_not_execute_it(
    typed: Typed, folder: Path
) -> None:
    own = folder / "evaluators" / "tabular.py"
    own.parent.mkdir()
    own.write_text((folder / "quick.py").read_text())
    done = typed("run", "tabular", "--trials", "1", "--final-seeds", "0", "--name", "one")
    assert done.code == 0, done
    assert done.err.count("uses evaluators/tabular.py, not the bundled evaluator tabular: write bundled:tabular") == 1
    assert "not the bundled" not in typed("evaluators", "bundled:tabular").err
    own.write_text("raise SystemExit('it was executed')")
    for words in (["list"], ["show"], ["status"], ["best"], ["report"], ["evaluators"], ["run", "--help"]):
        assert typed(*words).code == 0, words


def test_evaluators_and_strategies_are_listed(typed: Typed, folder: Path) -> None:
    (folder / "evaluators").mkdir()
    (folder / "evaluators" / "language_model.py").write_text('"""My own."""\n')
    rows = {row["evaluator"]: row for row in json.loads(typed("evaluators", "--format", "json").out)}
    assert rows["language_model"]["origin"] == "file (hides bundled)"
    assert rows["language_model"]["summary"] == "My own."
    strategies = {row["strategy"] for row in json.loads(typed("strategies", "--format", "json").out)}
    assert {"ga", "nsga2", "random"} <= strategies


def test_new_evaluate_and_run_by_name(typed: Typed, folder: Path) -> None:
    assert typed("new", "mine").code == 0
    assert (folder / "evaluators" / "mine.py").is_file()
    tried = typed("evaluate", "mine", "--format", "json")
    assert tried.code == 0, tried
    assert json.loads(tried.out)["status"] == "ok"
    ran = typed("run", "mine", "--trials", "4", "--quiet")
    assert ran.code == 0, ran
    again = typed("new", "mine")
    assert again.code == 2
    assert "exists" in again.err


def test_what_an_evaluator_remarks_is_said_beside_the_results(typed: Typed, folder: Path) -> None:
    with (folder / "quick.py").open("a") as file:
        file.write("\ndef remarks(*, bias):\n    return [f'a bias of {bias} is large'] if bias else []\n")
    run = ("run", "quick.py", "--trials", "1", "--final-seeds", "0", "-o", "bias=5")
    told = typed(*run, "--format", "json")
    assert told.err.startswith("quick: a bias of 5 is large\n")
    assert json.loads(told.out)["results"] == 1
    assert typed(*run, "--quiet").err == ""
    assert typed("evaluate", "quick.py", "-o", "bias=5").err.startswith("quick: a bias of 5 is large\n")
    assert "bias" not in typed("evaluate", "quick.py").err


STEPS = """
from evo_tune import Choice, Minimize, SearchSpace
SPACE = SearchSpace(batch=Choice((8, 64, 1024), ordered=True, default=8))
OBJECTIVES = [Minimize("loss")]
def steps(genome, samples):
    return {"steps": max(1, samples // genome["batch"])}
def estimate(genome, *, samples: int = 1024):
    return steps(genome, samples)
def evaluate(genome, context, *, samples: int = 1024):
    return {"loss": 1.0, **steps(genome, samples)}
"""


def test_trainings_of_few_steps_are_said_before_they_begin(typed: Typed, folder: Path) -> None:
    (folder / "steps.py").write_text(STEPS)
    few = "a training has only 1 step: give a larger budget, more data, or smaller batches"
    run = ("run", "steps.py", "--trials", "1", "--final-seeds", "0", "--no-report")
    assert f"with batch=8, {few.replace('1 step', '2 steps')}" in typed(*run, "-o", "samples=16").err
    assert typed(*run, "-o", "samples=100000").err == ""
    assert f"with batch=1024, {few}" in typed("evaluate", "steps.py", "-g", "batch=1024").err


def test_evaluate_one_genome_by_hand(typed: Typed) -> None:
    result = typed("evaluate", "quick.py", "-g", "x=0.5", "-g", "depth=2", "-o", "bias=1", "--format", "json")
    data = json.loads(result.out)
    assert data["genome"] == {"x": 0.5, "depth": 2, "kind": "a"}
    assert data["metrics"]["loss"] == pytest.approx(1.45)
    failed = typed("evaluate", "quick.py", "-g", "depth=7")
    assert failed.code == 1
    assert "seven is forbidden (quick.py:14)" in failed.out


@pytest.mark.slow
def test_warm_start_from_files_and_runs(typed: Typed, small_run: str, folder: Path) -> None:
    (folder / "old.csv").write_text("x,depth,kind\n0.25,3,b\n-0.5,2,a\n")
    (folder / "best.json").write_text(typed("best", small_run, "--format", "json").out)
    words = ["--warm-start", "old.csv", "--warm-start", "best.json", "--warm-start", small_run]
    result = typed("run", "quick.py", "--name", "warm", "--trials", "14", "--quiet", *words)
    assert result.code == 0, result
    table = pd.read_parquet(folder / "populations" / "warm").sort_values("id")
    assert list(table.operator[:4]) == ["default", "warm-start", "warm-start", "warm-start"]
    assert list(table["gene.x"][1:3]) == [0.25, -0.5]


def test_genes_and_config(typed: Typed, folder: Path) -> None:
    (folder / "run.toml").write_text(
        'evaluator = "quick.py"\ntrials = 6\nname = "conf"\nquiet = true\n'
        '[option]\nbias = 2\n[gene]\ndepth = 3\nx = "float(0.1,0.2)"\n'
    )
    result = typed("run", "quick.py", "--config", "run.toml", "--trials", "5")
    if "evaluator" in result.err:  # an argument is no flag
        (folder / "run.toml").write_text((folder / "run.toml").read_text().partition("\n")[2])
        result = typed("run", "quick.py", "--config", "run.toml", "--trials", "5")
    assert result.code == 0, result
    table = pd.read_parquet(folder / "populations" / "conf")
    assert len(table) == 5
    assert set(table["gene.depth"]) == {3}
    assert table["gene.x"].between(0.1, 0.2).all()
    assert (table["metric.loss"] > 2).all()


def test_help_answers_at_once(process: Typed) -> None:
    def seconds() -> float:
        start = time.monotonic()
        assert process("--help").code == 0
        return time.monotonic() - start

    assert min(seconds() for _ in range(3)) < 0.5 * 4, "measured at 0.06 s; far beyond that, something heavy came in"


@pytest.mark.slow
def test_a_terminal_gets_lines_of_progress(folder: Path) -> None:
    master, slave = pty.openpty()
    words = "run quick.py --trials 8 --slots 2 -o sleep=0.2 --final-seeds 0 --name tty"
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-m", "evo_tune", *words.split()], cwd=folder, env=env, stdout=slave, stderr=slave, stdin=slave
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's end reads as an error on Linux
        while piece := os.read(master, 65536):
            shown += piece
    os.close(master)
    assert process.wait(timeout=30) == 0, shown
    text = shown.decode()
    for word in ("[8/8] best loss", "0 failed", "trial ", "elapsed", "saved in"):
        assert word in text, text
