"""What people and programs see of ranges that a run widens by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evo_tune.report.summary import describe_widening
from evo_tune.store.run import Run
from tests.cli.conftest import Typed
from tests.journals import write_events

STEEP = '''"""Falls with x and n, far beyond their ranges."""
from evo_tune import Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(1e-3, 1e-2, log=True, widest=(None, None)), n=Int(1, 4))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    return {"loss": -genome["x"] - genome["n"] / 100}
'''

FLAGS = ("--strategy", "ga", "--order", "proposal", "--lag", "1", "--final-seeds", "0", "--trials", "26")
WORDS = ("run", "steep.py", *FLAGS)


@pytest.fixture
def steep(folder: Path) -> Path:
    (folder / "steep.py").write_text(STEEP)
    return folder


@pytest.mark.slow
def test_each_widening_is_a_line_and_the_final_ranges_are_named(typed: Typed, steep: Path) -> None:
    done = typed(*WORDS, "--name", "wide")
    run = Run.open(steep / "populations" / "wide")
    assert run.widened
    for one in run.widened:
        assert done.out.count(describe_widening(one)) == 1
    said = r"^x widened to \[0\.001, 0\.03\]: \d of the best \d trials are at its high end$"
    assert re.search(said, done.out, re.MULTILINE)
    final = f"widened ranges: {', '.join(f'{name} {text}' for name, text in ranges(run).items())}"
    assert final in done.out
    assert final in typed("show", "wide").out
    assert json.loads(typed("show", "wide", "--format", "json").out)["widened"] == ranges(run)
    assert typed("verify", "wide").code == 0
    assert "widened ranges" in (run.folder / "_report.html").read_text()
    more = typed("resume", "wide", "--trials", "27", "--final-seeds", "0")
    assert describe_widening(run.widened[0]) not in more.out, "earlier ones are not told again"


def ranges(run: Run) -> dict[str, str]:
    changed = {name for one in run.widened for name in one.changed}
    return {
        name: f"[{run.genes[name].decode(0.0):.5g}, {run.genes[name].decode(1.0):.5g}]"
        for name in run.genes
        if name in changed
    }


def test_without_it_the_range_is_advised(typed: Typed, steep: Path) -> None:
    done = typed(*WORDS, "--no-widen", "--name", "kept")
    assert "widened" not in done.out
    assert "at an end of its range: n (" in done.out
    assert "--gene 'n=int(1,5)'" in done.out
    assert not Run.open(steep / "populations" / "kept").widened


def test_a_program_reads_of_it_before_the_genome_that_uses_it(typed: Typed, steep: Path) -> None:
    lines = [json.loads(line) for line in typed(*WORDS, "--name", "wide", "--format", "jsonl").out.splitlines()]
    high = 1e-2
    for line in lines:
        if line["event"] == "widened" and line["gene"] == "x":
            high = float(line["range"].rstrip("]").split(", ")[1])
            assert "at its high end" in line["reason"]
        elif line["event"] == "proposed":
            assert line["genome"]["x"] <= high
    assert high > 1e-2
    assert [line["event"] for line in lines].count("widened") == len(Run.open(steep / "populations" / "wide").widened)


def test_verify_says_what_was_altered(typed: Typed, steep: Path) -> None:
    typed(*WORDS, "--name", "wide")
    journal = steep / "populations" / "wide" / "_journal.jsonl"
    lines = journal.read_text().replace("trials are at its high end", "trials liked it", 1).splitlines()
    write_events(journal.parent, map(json.loads, lines))
    found = typed("verify", "wide")
    assert found.code == 1
    assert "trials liked it" in found.err
    assert re.search(r"but replayed .* trials are at its high end", found.err)
    assert "1 changes of ranges do not agree" in found.err
    assert json.loads(typed("verify", "wide", "--format", "json").out)["ranges"][0]["recorded"].endswith("liked it")
