"""What is printed for programs is what docs/json.md promises, key by key, and commands end with the codes it names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
import msgspec
import pytest

from evo_tune.cli import command_module, command_names, shared
from tests.cli.conftest import QUICK, Result, Typed
from tests.public import script

MAKE = script("docs/make_json.py")
EVENTS, OUTPUT_TYPES = MAKE.EVENTS, MAKE.OUTPUT_TYPES

Act = Callable[[Typed, Path], Result]

DOCS = Path(__file__).parents[2] / "docs"

EXPORT = """

def export(genome, context, folder):
    print("an evaluator may print what it likes")
    (folder / "weights").write_text("")
    return {"loss": float("nan")}


def transfer(genome, target):
    names = "width depth heads context parameters without_embeddings tokens flops batch steps lr lr_hidden"
    size = dict.fromkeys(names.split(), 2)
    row = dict(gene="x", kind="kept", found=1, target=1, rule="", source="", factor=1.0)
    fit = dict(memory=24.0, ranks=1, micro_batch=None, passes=None, recompute=None, predicted=None)
    told = dict(genome=genome, options={}, rows=[row], remarks=["one"], found=size, fits=[fit])
    return {**told, "target": {**size, "epochs": 0.5}}
"""

LOOKS = [
    "list",
    "status",
    "show one --predict x=0.5",
    "propose one x=0.25 --source agent",
    "best one",
    "best several",
    "report one -o one.html",
    "rename several renamed",
    "delete renamed --yes",
    "convert one --to optuna",
    "verify one",
    "verify one --retrain 2",
    "watch one",
    "evaluators",
    "evaluators ./quick.py",
    "strategies",
    "new mine",
    "evaluate quick.py",
    "evaluate quick.py -g depth=7",
    "export one model",
    "scale one --depth 2 --width 64 --tokens 1e6 --speed 1e3",
    "devices",
    "completion zsh",
    "mcp .",
    "verdict results.csv --baseline a",
]


def read(name: str, printed: str) -> Any:
    """Return what a command has printed, which must be what is promised of it."""
    return msgspec.json.decode(printed.encode(), type=OUTPUT_TYPES[name])


def kind_of(event: Any) -> str:
    return str(event.__struct_config__.tag)


def about(event: Any, id: int) -> bool:
    return kind_of(event) in ("proposed", "result") and event.id == id


def events(printed: str) -> list[Any]:
    return [msgspec.json.decode(line.encode(), type=EVENTS) for line in printed.splitlines()]


@pytest.fixture
def desk(folder: Path, small_run: str, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run, and one of two objectives."""
    two = "run quick.py --name several --trials 4 --objective loss:min --objective cost:max --quiet --no-report"
    assert typed(*two.split()).code == 0
    (folder / "quick.py").write_text(QUICK + EXPORT)
    (folder / "results.csv").write_text("name,loss\na,1\nb,2\nb,3\n")
    os.utime(folder / "populations" / small_run / "_journal.jsonl")  # the latest
    serve = "evo_tune.report.serving.serve"
    monkeypatch.setattr(serve, lambda folder, port, tell: tell("http://127.0.0.1:1/?token=x"))
    return folder


@pytest.mark.parametrize("name", command_names())
def test_every_command_prints_json_and_its_keys_are_written_down(name: str) -> None:
    formats = next(one for one in command_module(name).command.params if "--format" in one.opts)
    assert isinstance(formats.type, click.Choice)
    assert "json" in formats.type.choices
    assert ("jsonl" in formats.type.choices) == (name in ("run", "resume"))
    assert name in OUTPUT_TYPES, "its output has no declared type"
    assert set(OUTPUT_TYPES) == {*command_names(), "run --dry-run", "auto --dry-run"}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which `print_json` adds each value that it prints."""
    found: list[Any] = []
    before = shared.print_json

    def print_json(value: Any, line: bool = False) -> None:
        found.append(value)
        before(value, line)

    monkeypatch.setattr(shared, "print_json", print_json)
    return found


def is_declared(value: Any, kind: Any) -> bool:
    """Return whether a value is an instance of a type, of a list of a type, or of one of several such types."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(is_declared(one, get_args(kind)[0]) for one in value)
    if get_args(kind):
        return any(is_declared(value, one) for one in get_args(kind))
    return type(value) is kind


def test_json_is_printed_in_one_place() -> None:
    cli = Path(shared.__file__).parent
    others = [path.name for path in cli.rglob("*.py") if "json.dumps" in path.read_text("utf-8")]
    assert others == ["shared.py"], "another module prints JSON by itself"


@pytest.mark.slow
def test_what_is_printed_has_the_keys_that_are_promised(desk: Path, typed: Typed, printed: list[Any]) -> None:
    alone = {"run", "run --dry-run", "resume", "predict", "auto", "auto --dry-run"}  # these have tests of their own
    assert {line.split()[0] for line in LOOKS} | alone == set(OUTPUT_TYPES)
    for line in LOOKS:
        name, *words = line.split()
        more = ("--trust",) if name in ("export", "scale", "verify") else ()
        printed.clear()
        done = typed(name, *words, "--format", "json", *more)
        assert read(name, done.out), (line, done)
        assert [is_declared(value, OUTPUT_TYPES[name]) for value in printed] == [True], f"{name} prints another type"
        assert done.out.isascii()
        assert done.code == (1 if "depth=7" in line else 0), (line, done)


def test_a_run_that_is_not_begun_prints_what_it_would_take(typed: Typed) -> None:
    planned = read("run --dry-run", typed("run", "quick.py", "--dry-run", "--format", "json").out)
    assert (planned.forecast, planned.seconds_timed) == (None, None)  # quick.py cannot be timed


def test_a_run_and_its_continuation_print_how_they_ended(typed: Typed) -> None:
    words = ("--final-seeds", "0", "--format", "json", "--quiet", "--trials")
    assert read("run", typed("run", "quick.py", "--name", "mine", *words, "2").out).results == 2
    assert read("resume", typed("resume", "mine", *words, "3").out).results == 3


def test_events_come_as_they_happen_and_none_is_missing(typed: Typed, folder: Path) -> None:
    words = ("--final-seeds", "1", "--finalists", "1", "--format", "jsonl", "--trials")
    done = typed("run", "quick.py", "--name", "mine", "--order", "proposal", *words, "8")
    told = events(done.out)
    kinds = [kind_of(one) for one in told]
    assert (kinds[0], kinds[-1], done.code, told[-1].exit_code) == ("begin", "end", 0, 0)
    for id in range(8):
        assert [kind for kind, one in zip(kinds, told, strict=True) if about(one, id)] == ["proposed", "result"]
    good = [one.metrics["loss"] for one in told if kind_of(one) == "result" and one.status == "ok"]
    assert [one.value for one in told if kind_of(one) == "best"][-1] == min(good)
    assert kinds.count("fresh") >= 2, "the closing race is told, too"
    assert [one.time for one in told] == sorted(one.time for one in told)
    again = events(typed("resume", "mine", *words, "9").out)
    assert (again[0].proposed, again[0].results) == (8, 8)
    assert [one.id for one in again if kind_of(one) == "proposed"] == [8], "nothing is told twice"


@pytest.mark.slow
def test_events_are_told_while_the_run_goes_on(folder: Path) -> None:
    words = [sys.executable, "-m", "evo_tune", "run", "quick.py", "--trials", "3", "--slots", "1", "-o", "sleep=0.3"]
    words += ["--final-seeds", "0", "--format", "jsonl"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        seen = [(json.loads(line)["event"], running.poll()) for line in running.stdout]
    assert seen[0] == ("begin", None)
    assert ("result", None) in seen
    assert running.returncode == 0


def cut(typed: Typed, folder: Path) -> Result:
    """Interrupt a run, by a training that sends what Ctrl-C does."""
    sends = "    import os, signal\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.3)\n"
    (folder / "cut.py").write_text(QUICK.replace("    time.sleep(sleep)\n", sends))
    return typed("run", "cut.py", "--trials", "9", "--name", "cut", "--format", "jsonl")


def unfit(typed: Typed, folder: Path) -> Result:
    (folder / "unfit.py").write_text(QUICK.replace('return {"loss"', 'return {"lost"'))
    return typed("run", "unfit.py", "--trials", "2", "--name", "unfit", "--format", "jsonl")


CODES: list[tuple[int, Act]] = [
    (0, lambda typed, folder: typed("list", "--format", "json")),
    (1, lambda typed, folder: typed("show", "nowhere", "--format", "json")),
    (1, unfit),
    (2, lambda typed, folder: typed("run", "quick.py", "--trials", "none", "--format", "jsonl")),
    (2, lambda typed, folder: typed("run", "quick.py", "-o", "bia=1", "--format", "jsonl")),
    (2, lambda typed, folder: typed("run", "nowhere", "--format", "json")),
    (130, cut),
]


@pytest.mark.parametrize(("code", "act"), CODES)
def test_exit_codes_are_those_of_the_page(
    code: int, act: Callable[[Typed, Path], Result], typed: Typed, folder: Path
) -> None:
    done = act(typed, folder)
    assert done.code == code, done
    assert f"\n| {code} | " in (DOCS / "json.md").read_text(encoding="utf-8")
    if act in (cut, unfit):
        told = events(done.out)
        assert told[-1].exit_code == code
        assert ("stopping" in [kind_of(one) for one in told]) == (code == 130)
    elif code:
        assert done.out == ""
        assert done.err.startswith("Error: ")
        assert done.err.count("\n") == 1


def test_the_page_is_made_of_the_types() -> None:
    tables = MAKE.generated()
    assert all(f"| `evo-tune {name}` | " in tables for name in OUTPUT_TYPES)
    for kind in MAKE.reached([*OUTPUT_TYPES.values(), EVENTS]):
        described = {*MAKE.entries(kind), *(MAKE.entries(kind.__base__)), "time"}
        assert get_type_hints(kind).keys() <= described, f"{kind.__name__}: a key has no text under Args"
