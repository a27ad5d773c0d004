"""`--pack`, as it is typed, told and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Typed
from tests.packs import calls, packs

RUN = ["run", "packing.py", "--strategy", "random", "--population", "4", "--order", "birth"]
RUN += ["--replicates", "3", "--trials", "6", "--calibrate", "2"]


def test_what_is_typed_is_settled_and_told(typed: Typed, folder: Path) -> None:
    packs(folder)
    for name, given, told in (("auto", "auto", 3), ("two", "2", 2)):
        made = typed(*RUN, "--pack", given, "--name", name, "--format", "jsonl")
        assert made.code == 0, made
        results = [json.loads(line) for line in made.out.splitlines() if line.startswith("{")]
        assert {one["packed"] for one in results if one["event"] == "result"} == {1, 2}
        assert f"--replicates 3, --pack {told}: the cost of" in typed("show", name).out
        data = json.loads(typed("show", name, "--format", "json").out)
        assert data["pack"] == told
        assert {one["packed"] for one in data["best"]} <= {1, 2}
        assert typed("verify", name).code == 0
    assert "pack" in {call["how"] for call in calls(folder)}
    plain = typed(*RUN, "--name", "plain")
    assert plain.code == 0
    assert "round otherwise" not in plain.out
    told = "trainings that were done as one round otherwise than alone"
    assert told in typed(*RUN, "--pack", "2", "--name", "more").out
    assert "--pack" not in typed("show", "plain").out


def test_a_file_of_flags_may_say_it(typed: Typed, folder: Path) -> None:
    packs(folder)
    (folder / "flags.toml").write_text('pack = "auto"\n')
    assert typed(*RUN, "--config", "flags.toml", "--name", "filed").code == 0
    assert json.loads(typed("show", "filed", "--format", "json").out)["pack"] == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["packing.py", "--pack", "0"], "--pack 0: expected auto, or a whole number from 1 to 64"),
        (["packing.py", "--pack", "3.5"], "--pack 3.5: expected auto, or a whole number from 1 to 64"),
        (["quick.py", "--pack", "2"], "--pack 2: evaluator quick does not say that it supports it"),
        (
            ["language_model", "-o", "seconds=5", "--pack", "2"],
            "--pack 2: -o seconds=5.0 is the time of a training that",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(typed: Typed, folder: Path, words: list[str], told: str) -> None:
    packs(folder)
    refused = typed("run", *words)
    assert refused.code == 2
    assert told in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    assert not (folder / "populations").exists() or not list((folder / "populations").iterdir())
