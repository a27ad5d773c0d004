"""Flags that click alone would not check: `--config FILE`, and those of `evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from evo_tune.cli.commands.run import command as run_command
from evo_tune.cli.flags import read_config
from evo_tune.errors import OptionError
from tests.cli.conftest import Typed


def read(path: Path, text: str) -> dict[str, Any]:
    """Return what `run` takes from a file with this text."""
    path.write_text(text, encoding="utf-8")
    ctx = click.Context(run_command)
    config = next(parameter for parameter in run_command.get_params(ctx) if parameter.name == "config")
    read_config(ctx, config, str(path))
    return dict(ctx.default_map or {})


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("seed = 7\npopulation = 4", {"seed": 7, "population": 4}),
        ("hours = 1\ntimeout = 2.5", {"hours": 1.0, "timeout": 2.5}),
        ("quiet = true\nfill-defaults = false", {"quiet": True, "fill_defaults": False}),
        ("order = 'proposal'\nformat = 'json'", {"order": "proposal", "output_format": "json"}),
        ("name = 'mine'\nevaluator = 'quick.py'", {"name": "mine", "evaluator": "quick.py"}),
        ("objective = 'loss:min'", {"objectives": ["loss:min"]}),
        ("objective = ['loss:min', 'cost:min']", {"objectives": ["loss:min", "cost:min"]}),
        ("warm-start = 'old.csv'", {"warm_start": ["old.csv"]}),
        ("warm_start = ['a', 'b']", {"warm_start": ["a", "b"]}),
        ("option = 'bias=1'", {"options": ["bias=1"]}),
        ("o = ['bias=1']", {"options": ["bias=1"]}),
        ("[option]\na = 1\nb = 2.5\nc = true\nd = 'x y'\n", {"options": ["a=1", "b=2.5", "c=true", "d=x y"]}),
        ("[strategy-option]\nelites = 1", {"strategy_option": ["elites=1"]}),
        ("[gene]\nlr = 'log(1e-5,1e-2)'\ndepth = 3", {"genes": ["lr=log(1e-5,1e-2)", "depth=3"]}),
        ("per-device = 'auto'", {"per_device": "auto"}),
        ("per_device = 2", {"per_device": 2}),
        ("", {}),
    ],
)
def test_each_flag_takes_what_it_takes_when_typed(tmp_path: Path, text: str, taken: dict[str, Any]) -> None:
    assert read(tmp_path / "run.toml", text) == taken


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = 1.5", "seed: 1.5: expected a whole number"),
        ("seed = true", "seed: True: expected a whole number"),
        ("seed = '1'", "seed: '1': expected a whole number"),
        ("seed = [1]", "seed: [1]: expected a whole number"),
        ("per-device = 'many'", "per-device: 'many': expected a whole number"),
        ("seed = -1", "seed: -1 is not in the range x>=0"),
        ("population = 1", "population: 1 is not in the range x>=2"),
        ("hours = 'two'", "hours: 'two': expected a number"),
        ("hours = true", "hours: True: expected a number"),
        ("hours = 0", "hours: 0"),
        ("quiet = 1", "quiet: 1: expected true or false"),
        ("order = 'random'", "order: 'random' is not one of 'arrival', 'proposal'"),
        ("name = 5", "name: 5: expected text, in quotes"),
        ("name = ['a']", "name: ['a']: expected text, in quotes"),
        ("[seed]\na = 1", "seed: {'a': 1}: expected a whole number"),
        ("name = 2026-01-01", "name: datetime.date(2026, 1, 1): expected text"),
        ("objective = 5", "objective: 5: expected text, a list of texts"),
        ("objective = ['loss:min', 5]", "expected text, a list of texts"),
        ("[objective]\nloss = 'min'", "objective: {'loss': 'min'}: expected text, a list of texts"),
        ("[warm-start]\na = 'b'", "warm-start: {'a': 'b'}: expected text, a list of texts"),
        ("option = 5", "option: 5: expected text, a list of texts, or a table of names and values"),
        ("[option]\nbias = [1]", "option: {'bias': [1]}: expected one value for bias: text, a number, true or false"),
        ("[option.deep]\nbias = 1", "expected one value for deep"),
        ("sed = 1", "'sed' is not a flag of run"),
        ("config = 'other.toml'", "'config' is not a flag of run"),
        ("option = 'a=1'\no = 'b=1'", "o is given twice, by two names"),
        ("seed = ", "expected a TOML file"),
        ("seed = 1\nseed = 2", "expected a TOML file"),
    ],
)
def test_what_a_flag_does_not_take_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(OptionError) as caught:
        read(path, text)
    assert str(caught.value).startswith(f"--config {path}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"name = '\xe9'")
    ctx = click.Context(run_command)
    config = next(parameter for parameter in run_command.get_params(ctx) if parameter.name == "config")
    with pytest.raises(OptionError, match=r"run\.toml: byte 8 is not UTF-8: save it as UTF-8"):
        read_config(ctx, config, str(path))


def test_a_run_from_a_file_and_a_flag_that_wins(typed: Typed, folder: Path) -> None:
    (folder / "run.toml").write_text(
        "evaluator = 'quick.py'\npopulation = 4\ntrials = 3\nseed = 9\nname = 'one'\nfinal-seeds = 0\nslots = 1\n"
        "format = 'json'\nobjective = 'loss:min'\n[option]\nbias = 2\n[gene]\ndepth = 'int(1,3)'\nkind = 'b'\n"
    )
    result = typed("run", "--config", "run.toml", "--seed", "5", "-o", "sleep=0.001", "--gene", "kind=a")
    assert result.code == 0, result
    assert json.loads(result.out)
    manifest = json.loads((folder / "populations" / "one" / "_run.json").read_text())
    assert (manifest["settings"]["seed"], manifest["options"]["bias"], manifest["objectives"]) == (5, 2, ["loss:min"])
    assert (manifest["space"]["depth"]["high"], manifest["options"]["sleep"]) == (3, 0.001)
    assert manifest["space"]["kind"]["values"] == ["a"], "the command line's"


@pytest.mark.parametrize("given", [["--budget", "nan"], ["--timeout", "nan"]])
def test_a_number_that_is_none_is_refused(process: Typed, folder: Path, given: list[str]) -> None:
    result = process("evaluate", "quick.py", *given)
    assert (result.code, result.out) == (2, ""), result
    assert f"{given[0]} nan" in result.err
    assert "expected more than 0" in result.err


def test_an_evaluation_that_is_terminated_leaves_no_folder(folder: Path) -> None:
    scratch = folder / "scratch"
    scratch.mkdir()
    words = [sys.executable, "-m", "evo_tune", "evaluate", "quick.py", "-o", "sleep=60"]
    process = subprocess.Popen(
        words, cwd=folder, env={**os.environ, "TMPDIR": str(scratch)}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not list(scratch.glob("*/.worker-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "Error: interrupted"
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trials = " + "[" * 50_000, "nested too deeply"),
        ("a" + ".a" * 100_000 + " = 1", "more than ten parts"),
        ("[a" + ".a" * 100_000 + "]", "more than ten parts"),
        ("gene = {a" + ' . "a.b"' * 20_000 + " = 1}", "more than ten parts"),
        ("#" * 1_000_000, "expected at most 262144"),
    ],
)
def test_a_bomb_of_toml_is_refused_at_once(tmp_path: Path, text: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(OptionError, match=f"--config .*{said}") as caught:
        read(tmp_path / "run.toml", text)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 20


def test_flags_are_not_read_from_what_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.toml")
    ctx = click.Context(run_command)
    config = next(parameter for parameter in run_command.get_params(ctx) if parameter.name == "config")
    for path in (tmp_path / "run.toml", Path("/dev/zero")):
        with pytest.raises(OptionError, match="no regular file"):
            read_config(ctx, config, str(path))
