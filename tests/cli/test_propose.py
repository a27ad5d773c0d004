"""`evo-tune propose` and `show --predict`, as somebody types them, and the wrong inputs of somebody in a hurry."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from evo_tune.loop.search import Search
from evo_tune.store.inbox import INBOX
from evo_tune.store.run import Run
from tests.cli.conftest import Typed


def inbox(folder: Path, run: str) -> list[Path]:
    return sorted((folder / "populations" / run / INBOX).glob("*.json"))


def test_what_is_proposed_waits_and_a_longer_run_trains_it(folder: Path, small_run: str, typed: Typed) -> None:
    (folder / "ideas.csv").write_text("x,kind\n0.5,b\n-0.5,a\n")
    (folder / "ideas.json").write_text('[{"genome": {"x": 0.75}}]')
    done = typed("propose", small_run, "x=0.25 depth=3", '{"x": 0.125}', "ideas.csv", "ideas.json", "--source", "eve")
    assert done.out.splitlines() == [
        "proposed: x=0.25 depth=3 kind=a",
        "proposed: x=0.125 depth=5 kind=a",
        "proposed: x=0.5 depth=5 kind=b",
        "proposed: x=-0.5 depth=5 kind=a",
        "proposed: x=0.75 depth=5 kind=a",
        "5 waiting: `evo-tune resume one --generations 5` trains them first",
    ]
    status = typed("status", small_run).out
    assert "5 proposed genomes waiting, to be trained next, within the limits: `evo-tune resume one --gen" in status
    assert json.loads(typed("status", small_run, "--format", "json").out)["waiting"] == 5
    assert typed("resume", small_run, "--trials", "13", "--quiet", "--final-seeds", "0").code == 0
    run = Run.open(folder / "populations" / small_run)
    assert [candidate.genome["x"] for candidate in run.candidates[8:]] == [0.25, 0.125, 0.5, -0.5, 0.75]
    assert {candidate.operator for candidate in run.candidates[8:]} == {"proposed by eve"}
    assert inbox(folder, small_run) == []
    assert typed("verify", small_run).out.startswith("one: all 13 proposals agree with the recorded ones\n")
    assert "proposed by eve" in typed("show", small_run, "--top", "13").out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("x",), "genome 'x': no such file, and no value of a gene: expected 'NAME=VALUE NAME=VALUE', a JSON"),
        (("ideas.csv",), "genome 'ideas.csv': no such file, and no value of a gene: expected"),
        (("x=1 y",), "genome 'x=1 y': gene y: expected gene NAME=VALUE"),
        (("{",), "genome '{': Expecting property name"),
        (("x='1",), "No closing quotation"),
        (("x=1 x=2",), "gene x is given twice"),
        (("y=1",), "unknown gene y: expected x, depth, kind"),
        (("x=9",), "gene x: 9 is not allowed: expected a number from -1 to 1; the run widens its range to [-3, 3]"),
        (("x=0.1", "kind=c"), "genome 2: gene kind: 'c' is not allowed"),
        (("x=0.1", "--source", "a b"), "source 'a b': expected up to 40 letters"),
        (("",), "expected values by gene"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    folder: Path, small_run: str, typed: Typed, words: tuple[str, ...], error: str
) -> None:
    done = typed("propose", small_run, *words)
    assert done.code == 2
    assert error in done.err
    assert len(done.err.splitlines()) == 1
    assert inbox(folder, small_run) == []


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("huge.json", b" " * (1 << 24), "expected at most 8388608"),
        ("long.json", b'[{"x": "' + b"a" * 100_000 + b'"}]', "gene x: 'aaa"),
        ("deep.json", b"[" * 100_000, "deep.json: "),
        ("types.json", b'[{"x": [1]}]', "gene x: [1] is not allowed"),
        ("types.json", b'[{"x": null}, 3]', "row 2: 3 is no genome"),
        ("name.json", b'[{"\\u001b[31mx": 1}]', "unknown gene \\x1b[31mx"),
        ("name.csv", b"\x1b[31mx\n1\n", "unknown gene \\x1b[31mx"),
        ("bytes.csv", b"x\n\xff\n", "bytes.csv"),
        ("many.csv", b"x\n" + b"".join(b"%d\n" % number for number in range(2, 10_003)), "would have more than 10000"),
        ("lines.csv", b"x\r" * 1_000_001, "it has 1000001 lines: expected at most 1000000"),
    ],
    ids=[
        "huge",
        "long-value",
        "deep",
        "wrong-type",
        "wrong-row",
        "control-json",
        "control-csv",
        "no-utf8",
        "many",
        "lines",
    ],
)
def test_a_strangers_file_is_one_line_and_writes_nothing(
    folder: Path, small_run: str, typed: Typed, name: str, content: bytes, error: str
) -> None:
    (folder / name).write_bytes(content)
    done = typed("propose", small_run, "x=0.25", name)
    assert done.code == 2
    assert error in done.err
    assert len(done.err.splitlines()) == 1
    assert done.err.rstrip("\n").isprintable()
    assert len(done.err) < 500
    assert inbox(folder, small_run) == []


@pytest.mark.parametrize(("name", "content"), [("empty.json", "[]"), ("empty.csv", "x,kind\n")])
def test_a_file_without_a_genome_is_an_error(
    folder: Path, small_run: str, typed: Typed, name: str, content: str
) -> None:
    (folder / name).write_text(content)
    done = typed("propose", small_run, name)
    assert (done.code, done.err) == (
        2,
        f"Error: No genome in {name}: expected at least one; see `evo-tune propose --help`\n",
    )


def test_before_the_run_exists_the_error_names_the_command_that_begins_it(folder: Path, typed: Typed) -> None:
    done = typed("propose", "mine", "x=0.25")
    begins = "`evo-tune run … --name mine` begins it, and its --warm-start trains the genomes of a file first"
    assert (done.code, done.err) == (1, f"Error: there is no run 'mine' in populations: it holds none; {begins}\n")
    assert not (folder / "populations").exists()


def test_before_the_first_trial_it_waits_for_the_default(folder: Path, typed: Typed) -> None:
    Search("quick.py", name="early", trials=3).close()
    done = typed("propose", "early", "x=0.25")
    assert done.out.splitlines()[-1] == "1 waiting: `evo-tune resume early` trains them first"
    assert typed("resume", "early", "--quiet", "--final-seeds", "0").code == 0
    operators = [candidate.operator for candidate in Run.open(folder / "populations" / "early").candidates]
    assert operators[:2] == ["default", "proposed by person"]
    assert len(operators) == 3


def test_a_read_only_folder_is_one_line(folder: Path, small_run: str, typed: Typed) -> None:
    if os.geteuid() == 0:
        (folder / "populations" / small_run / INBOX).write_text("")  # root may write anywhere
    else:
        (folder / "populations" / small_run).chmod(0o500)
    done = typed("propose", small_run, "x=0.25")
    assert done.code == 1
    assert done.err.startswith("Error: cannot write populations/one/_inbox: ")
    assert len(done.err.splitlines()) == 1


def test_a_value_is_predicted_or_there_are_too_few_results(folder: Path, small_run: str, typed: Typed) -> None:
    few = typed("show", small_run, "--predict", "x=0.25")
    assert few.out.splitlines()[-1] == "x=0.25 depth=5 kind=a: no prediction from so few results"
    assert typed("resume", small_run, "--trials", "30", "--quiet", "--final-seeds", "0").code == 0
    line = typed("show", small_run, "--predict", "x=0.25").out.splitlines()[-1]
    assert line.startswith("x=0.25 depth=5 kind=a: predicted loss 0.")
    assert "80 % interval" in line
    assert line.endswith("%")
