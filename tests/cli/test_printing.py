"""What of a run's text reaches the terminal and a spreadsheet: nothing that either would obey."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest

import evo_tune.cli
from evo_tune.cli import output, shared
from evo_tune.cli.flags import read_genomes
from evo_tune.loop.search import Search
from tests.cli.conftest import Typed
from tests.journals import events_of, write_events

STEER = "\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x07\x1b[2J\x9b2J\u202egpj\u2066\u200f\U000e0065\u2028\nfake line\x7f"
"""Clipboard, title, clear screen, text turned around, tags, line breaks."""

UNSAFE = {"Cc", "Cs", "Cf", "Zl", "Zp", "Co", "Cn"}


def steering(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in UNSAFE and c != "\n"}


@pytest.fixture
def hostile(folder: Path, small_run: str) -> str:
    """A run whose every text steers a terminal, or is a formula."""
    run = folder / "populations" / small_run
    manifest = json.loads((run / "_run.json").read_text())
    manifest["strategy"] = f"{STEER}.py"
    manifest["evaluator"] = f"./{STEER}.py"
    manifest["space"]["kind"]["values"] = [f"=cmd|a {STEER}", "b"]
    manifest["versions"] = {STEER: STEER}
    (run / "_run.json").write_text(json.dumps(manifest))
    lines = events_of(run)
    for line in lines:
        if line["event"] == "proposed":
            line["candidate"]["operator"] = f"=1+1 {STEER}"
            line["candidate"]["genome"]["kind"] = f"=cmd|a {STEER}"
        if line["event"] == "recorded" and line["id"] == 3:
            line["outcome"].update(status="failed", metrics={}, error=f"@oops {STEER}")
        elif line["event"] == "recorded":
            line["outcome"]["metrics"][f"=more {STEER}"] = 1.0
        if line["event"] == "end":
            line["reason"] = f"-over {STEER}"
    write_events(run, lines)
    (run / "_comparison.parquet").unlink()
    return small_run


LOOKS = [
    ["list"],
    ["show"],
    ["best"],
    ["status"],
    ["verify"],
    ["resume"],
    *(["list", "--format", form] for form in ("json", "csv")),
    *(["show", "--format", form] for form in ("json", "csv")),
    ["best", "--format", "csv"],
    ["best", STEER],
]


@pytest.mark.parametrize("words", LOOKS, ids=lambda words: "-".join(words)[:20].encode("ascii", "replace").decode())
def test_nothing_of_a_run_steers_the_terminal(typed: Typed, hostile: str, words: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = typed(*words)
    assert result.out + result.err
    assert "Traceback" not in result.err
    assert not steering(result.out + result.err)
    assert not any(line.startswith("fake line") for line in (result.out + result.err).splitlines())


def test_json_keeps_the_text_as_it_is(typed: Typed, hostile: str) -> None:
    result = typed("show", hostile, "--format", "json")
    assert result.out.isascii()
    assert json.loads(result.out)["strategy"] == f"{STEER}.py"


def test_a_spreadsheet_computes_nothing_of_a_run(typed: Typed, hostile: str) -> None:
    for words in (["show", hostile], ["list"], ["best", hostile]):
        rows = list(csv.reader(io.StringIO(typed(*words, "--format", "csv").out)))
        cells = [cell for row in rows for cell in row]
        assert len({len(row) for row in rows}) == 1
        computed = [cell for cell in cells if cell[:1] and cell[0] in "=+-@\t\r"]
        assert all(re.fullmatch(r"-\d+(\.\d+)?(e-?\d+)?", cell) for cell in computed), computed
    negative = [cell for cell in cells if cell.startswith("-")]
    assert all(float(cell) < 0 for cell in negative), "numbers stay numbers"


def test_a_quoted_gene_is_read_back(folder: Path) -> None:
    (folder / "genomes.csv").write_text("x,kind\n-0.5,'=a\n0.5,-2\n")
    assert read_genomes("genomes.csv", folder) == [{"x": -0.5, "kind": "=a"}, {"x": 0.5, "kind": -2}]


def test_errors_and_warnings_are_one_line_that_steers_nothing(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run", f"{STEER}.py"], ["show", STEER], [STEER], ["run", "--seed", STEER]):
        result = typed(*words)
        assert result.code == 2 or words[0] == "show"
        assert len(result.err.splitlines()) == 1
        assert not steering(result.err)
    long = typed("show", "x" * 100_000).err
    assert len(long) < 2100
    assert long.endswith("\n")
    evo_tune.cli._warn(f"careful {STEER}", UserWarning)
    assert not steering(capsys.readouterr().err)


def test_lines_of_progress_steer_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search("quick.py", trials=2, name="mine")
    monkeypatch.setattr(type(search), "status", property(lambda self: f"status {STEER}"))
    output.ProgressLines(search.saved).print_new(search)
    search.close()
    printed = capsys.readouterr().out
    assert "status" in printed
    assert not steering(printed)


def test_a_table_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [{STEER: STEER, "b": 1.5}, {STEER: "é 中 🙂", "b": None}]
    shared.print_rows(rows, "table", title=STEER)
    shared.print_rows([], "table", empty=STEER)
    printed = capsys.readouterr().out
    assert not steering(printed)
    assert "é 中 🙂" in printed


def test_commands_print_by_one_door() -> None:
    """`click.echo` stands where text is made safe, and nowhere else."""
    files = sorted(Path(evo_tune.cli.__file__).parent.rglob("*.py"))
    assert len(files) > 10
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert path.name == "shared.py" or not re.search(r"click\.(s?echo|secho)|\bprint\(", text), path


def test_the_best_genome_is_shown_without_its_inactive_genes(typed: Typed, folder: Path) -> None:
    (folder / "pair.py").write_text(
        "from evo_tune import Choice, Float, Minimize, SearchSpace\n"
        "OBJECTIVES = [Minimize('loss')]\n"
        "x, y = (Float(0, 1, when={'kind': kind}) for kind in 'ab')\n"
        "SPACE = SearchSpace(kind=Choice(('a', 'b')), x=x, y=y)\n"
        "def evaluate(genome, context):\n    return {'loss': float(genome['kind'] == 'a')}\n"
    )
    done = typed("run", "pair.py", "--trials", "6", "--final-seeds", "0", "--no-report", "--slots", "1")
    line = next(line for line in (done.out + done.err).splitlines() if line.startswith("best genome: "))
    assert line.startswith("best genome: kind=b y=")
    assert " x=" not in line
