"""What a review found: text that looks like markup, pipes that close, hints that must work when they are typed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from evo_tune.cli.shared import print_rows
from evo_tune.cli.training import model_training
from tests.cli.conftest import QUICK, Typed


def test_text_in_brackets_is_printed_as_it_is(typed: Typed, folder: Path) -> None:
    (folder / "evaluators").mkdir()
    (folder / "evaluators" / "odd.py").write_text(
        QUICK.replace('["a", "b"]', '["[/INST]", "[bold]"]').replace("A quadratic", "A [lr] quadratic [/foo]")
    )
    assert "A [lr] quadratic [/foo]" in typed("evaluators").out
    assert typed("run", "odd", "--trials", "4", "--name", "odd").code == 0
    shown = typed("show", "odd")
    assert shown.code == 0, shown
    assert "[/INST]" in shown.out


def test_show_prints_the_front_of_several_objectives(typed: Typed) -> None:
    words = ["--objective", "loss:min", "--objective", "seconds:min", "--trials", "8", "--name", "two"]
    result = typed("run", "quick.py", *words)
    assert result.code == 0, result
    assert "not repeatable to the bit: seconds depends on the machine" in result.out
    assert "Pareto front" in typed("show", "two").out
    data = json.loads(typed("show", "two", "--format", "json").out)
    assert data["front"]
    assert all(row["metrics"]["seconds"] >= 0 for row in data["front"])


def test_a_refused_copy_leaves_nothing(typed: Typed, small_run: str, folder: Path) -> None:
    (folder / "quick.py").write_text(QUICK + "\n# changed\n")
    assert typed("resume", small_run, "--as", "copy").code == 2
    assert not (folder / "populations" / "copy").exists()
    assert typed("resume", small_run, "--as", "copy", "--accept-changes", "--trials", "9", "--quiet").code == 0


@pytest.mark.slow
def test_a_pipe_that_closes_does_not_end_the_run(typed: Typed, folder: Path) -> None:
    words = f"{shlex.quote(sys.executable)} -m evo_tune run quick.py --name piped --trials 12 --slots 2 -o sleep=0.1"
    subprocess.run(f"{words} --final-seeds 0 | head -1", shell=True, cwd=folder, capture_output=True, timeout=60)
    table = folder / "populations" / "piped"
    deadline = time.monotonic() + 30
    while len(list(table.glob("trials-*"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pd.read_parquet(table)) == 12


@pytest.mark.slow
def test_a_full_or_closed_output_is_one_line(folder: Path) -> None:
    quickly = ["--slots", "1", "--final-seeds", "0", "--no-report"]
    words = [sys.executable, "-m", "evo_tune", "run", "quick.py", "--trials", "3", *quickly, "--name"]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*words, "full"], cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    closed = " ".join(shlex.quote(word) for word in [*words, "closed"])
    done = subprocess.run(f"{closed} >&- 2>&-", shell=True, cwd=folder, timeout=60)
    assert done.returncode == 0
    assert len(pd.read_parquet(folder / "populations" / "closed")) == 3
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*words, "ascii"], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("store", ["my pops", "pöps"])
def test_hints_can_be_typed(typed: Typed, folder: Path, store: str) -> None:
    result = typed("run", "quick.py", "--trials", "3", "--name", "one", "--store", store)
    assert result.code == 0, result
    hint = result.out.rpartition("next: ")[2].partition("   |")[0]
    assert shlex.split(hint)[:2] == ["evo-tune", "show"]
    assert typed(*shlex.split(hint)[1:]).code == 0, hint
    elsewhere = typed("resume", str(folder / store / "one"))  # by path, with nothing left to do
    assert elsewhere.code == 0
    assert "Nothing was left to do: the limit of 3 trials is reached" in elsewhere.err
    more = elsewhere.err.rpartition("`evo-tune ")[2].partition("` trains more")[0]
    assert shlex.split(more)[-2:] == ["--trials", "6"]
    assert typed(*shlex.split(more), "--quiet").code == 0
    assert " left" not in elsewhere.out + elsewhere.err.replace("left to do", "")
    assert "forecast" not in elsewhere.out
    assert typed(*shlex.split(elsewhere.out.rpartition("next: ")[2].partition("   |")[0])[1:]).code == 0


def test_names_too_long(typed: Typed, small_run: str) -> None:
    long = "x" * 300
    for command in (["run", "quick.py", "--name", long], ["show", long], ["resume", small_run, "--as", long]):
        result = typed(*command)
        assert result.code in (1, 2)
        assert result.err.startswith("Error: ")
        assert "Traceback" not in result.err


def test_a_lost_journal_is_not_begun_anew(typed: Typed, small_run: str, folder: Path) -> None:
    (folder / "populations" / small_run / "_journal.jsonl").unlink()
    result = typed("resume", small_run)
    assert result.code == 1
    assert "_journal.jsonl is missing or empty" in result.err


EXPORTS = """
from evo_tune import Float, Minimize, SearchSpace
SPACE = SearchSpace(x=Float(0, 1))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["timing"]
def estimate(genome, *, flops: float = 1e6):
    return {"flops": flops}
def evaluate(genome, context, *, scales: bool = True, flops: float = 1e6):
    if context.timing:
        return {"seconds": 10.0 / context.threads if scales else 10.0 * context.threads}
    return {"loss": genome["x"]}
def export(genome, context, folder, *, scales, flops):
    for step in range(100):
        context.report(0.5 + step / 200, loss=0.25)
    (folder / "threads").write_text(str(context.threads))
    return {"loss": 0.5}
"""


def test_an_export_tells_its_progress_and_takes_the_faster_number_of_threads(
    typed: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_training, "cpu_count", lambda: 4)
    (folder / "exports.py").write_text(EXPORTS)
    words = ["--trials", "1", "--slots", "1", "--final-seeds", "0", "--name", "r", "--quiet"]
    assert typed("run", "exports.py", *words).code == 0
    short = typed("export", "r", "short", "-o", "flops=2e6")
    assert "on cpu with 1 thread, as in the trial; about 0 s" in short.out, short
    assert "  50%  loss 0.25  0 s" in short.out
    assert short.out.count("loss 0.25") == 1, "a line every few seconds, not one for each point"
    monkeypatch.setattr(model_training, "SHORTEST_TO_COMPARE", 0.0)
    assert (
        "with 4 threads, measured by a few steps; 1 thread: 10 s, 4 threads: 2 s; about 2 s"
        in typed("export", "r", "more").out
    )
    assert "with 1 thread, measured" in typed("export", "r", "one", "-o", "scales=false").out
    assert "with 3 threads, as given; its duration is unknown" in typed("export", "r", "given", "--threads", "3").out
    assert [(folder / name / "threads").read_text() for name in ("short", "more", "one", "given")] == list("1413")


def test_an_export_takes_the_options_of_the_run_but_for_those_given(typed: Typed, folder: Path) -> None:
    keeps = "\n\ndef export(genome, context, folder, *, sleep, bias):\n"
    keeps += "    (folder / 'kept').write_text(f'{sleep} {bias}')\n    return {'loss': 0.5}\n"
    (folder / "quick.py").write_text((folder / "quick.py").read_text() + keeps)
    words = ["--trials", "1", "--slots", "1", "--final-seeds", "0", "--name", "r", "--quiet", "-o", "bias=2"]
    assert typed("run", "quick.py", *words).code == 0
    done = typed("export", "r", "out", "-o", "sleep=0.5")
    assert done.code == 0, done
    assert (folder / "out" / "kept").read_text() == "0.5 2"
    for word, message in (("bia=3", "no option 'bia' (did you mean bias?)"), ("bias=x", "expected a whole number")):
        refused = typed("export", "r", "other", "-o", word)
        assert refused.code == 2
        assert message in refused.err
        assert not (folder / "other").exists()
    for words, message in (
        (["r"], "expected RUN and DIR, the folder to write: evo-tune export r DIR"),
        (["r", "out"], "DIR out: exists and is not an empty folder; choose another"),
    ):
        refused = typed("export", *words)
        assert refused.code == 2
        assert message in refused.err


def test_a_table_of_twenty_thousand_columns_takes_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"gene {number}" for number in range(20_000)]
    rows = [{"trial": trial, "loss": 0.5, **dict.fromkeys(names, 0.123456)} for trial in range(10)]
    began = time.monotonic()
    print_rows(rows, "table", spare=names)
    assert time.monotonic() - began < 10.0
    printed = capsys.readouterr().out
    assert "0.5" in printed
    assert "gene 0, gene 1, gene 2, gene 3, gene 4, gene 5 and 19" in printed, "columns that are left out are named"
