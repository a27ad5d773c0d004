"""Genomes of a warm start: read from files, checked, and born right after the default."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from evo_tune.cli.flags import read_genomes
from evo_tune.errors import SpaceError, UsageError
from evo_tune.report.summary import pareto_front
from tests.conftest import cut_copy, drive, rows
from tests.loop.cases import Begin, agrees


def test_warm_starts_are_born_right_after_the_default(begin: Begin, resume: Begin) -> None:
    warm = [
        {"x": 0.5, "n": 9, "kind": 2},
        {"x": 0.25, "n": 9.0, "kind": True},
        {"x": 0.5, "n": 9, "kind": 2},  # twice
    ]
    default = begin("default").space.default()
    search = begin("run", warm_start=[*warm, default], trials=6)
    assert search.saved.manifest.warm_start == [warm[0], {"x": 0.25, "n": 9, "kind": True}]
    drive(search)
    operators = [trial.candidate.operator for trial in search.trials]
    assert operators[:3] == ["default", "warm-start", "warm-start"]
    assert "warm-start" not in operators[3:]
    assert search.trials[1].genome == warm[0]
    assert search.trials[1].candidate.seed == search.trials[0].candidate.seed
    genomes = [json.dumps(trial.genome, sort_keys=True) for trial in search.trials]
    assert len(set(genomes)) == 6
    assert agrees(search)
    for cut in range(1, 9):
        cut_copy(search.saved, search.saved.folder.with_name(f"cut-{cut}"), cut)
        assert rows(drive(resume(f"cut-{cut}", trials=6))) == rows(search)


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ({"x": 0.5, "n": 9, "kind": 2, "lr": 1}, r"--warm-start, genome 2: unknown gene lr: expected x, n, kind"),
        ({"x": 0.5}, r"genome 2: missing gene n, kind: give it, or accept defaults \(--fill-defaults\)"),
        ({"x": 5, "n": 9, "kind": 2}, r"genome 2: gene x: 5 is not allowed: expected a number from -1 to 1"),
        ({"x": 0.5, "n": 9, "kind": "2"}, r"genome 2: gene kind: '2' is not allowed: expected one of a, 2, True"),
    ],
)
def test_a_warm_start_that_does_not_fit(begin: Begin, tmp_path: Path, genome: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        begin(warm_start=[{"x": 0, "n": 9, "kind": 2}, genome])
    assert not (tmp_path / "store").exists()


def test_a_warm_start_can_be_filled_up(begin: Begin) -> None:
    search = begin(warm_start=[{"x": 0.5}], fill_defaults=True)
    assert search.saved.manifest.warm_start == [{**search.space.default(), "x": 0.5}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("long.csv", b"lr,depth\n0.5,2\n0.5,2,3\n", "long.csv, line 3: 3 columns: expected 2, as in line 1"),
        ("short.csv", b"lr,depth\n0.5\n", "short.csv, line 2: 1 columns: expected 2"),
        ("latin.csv", b"lr,size\n0.5,\xe9\n", "latin.csv: byte 12 is not UTF-8: save it as UTF-8"),
        ("quote.csv", b'lr,depth\n"0.5"x,2\n', "quote.csv, line 2: "),
        ("open.csv", b'lr,depth\n"0.5,2\n', "open.csv, line 2: unexpected end of data; expected CSV"),
        ("big.csv", b"lr\n" + b"1" * 200_000, "big.csv, line 2: field larger than field limit"),
        ("empty.csv", b"", "empty.csv: expected at least one genome"),
        ("head.csv", b"lr,depth\n", "head.csv: expected at least one genome"),
        ("number.json", b"5", "number.json, row 1: 5 is no genome: expected an object of gene names"),
        ("texts.json", b'["abc"]', "texts.json, row 1: 'abc' is no genome"),
        ("second.json", b'[{"lr": 0.5}, {"genome": 5}]', "second.json, row 2: 5 is no genome"),
        ("null.json", b'{"genome": null}', "null.json, row 1: None is no genome"),
        ("none.json", b"[]", "none.json: expected at least one genome"),
        ("cut.json", b'[{"lr": 0.5}', "cut.json: Expecting"),
        ("latin.json", b'["\xe9"]', "latin.json: byte 2 is not UTF-8"),
    ],
)
def test_a_warm_start_that_cannot_be_read_says_where(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_genomes(str(tmp_path / name), tmp_path)
    assert str(caught.value).startswith(f"--warm-start {tmp_path}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", "lr,kind\n0.5,a b\n\n1e-3,\n"),
        ("excel.csv", "\ufefflr,kind\r\n0.5,a b\r\n1e-3,\r\n"),
        ("quoted.csv", '"lr","kind"\n0.5,"a b"\n1e-3,""'),
        ("table.csv", "id,gene.lr,seed,gene.kind\n0,0.5,7,a b\n1,1e-3,7,\n"),
        ("list.json", '[{"lr": 0.5, "kind": "a b"}, {"lr": 0.001, "kind": ""}]'),
        (
            "best.json",
            '\ufeff[{"genome": {"lr": 0.5, "kind": "a b"}}, {"trial": 1, "genome": {"lr": 0.001, "kind": ""}}]',
        ),
    ],
)
def test_genomes_are_read_as_they_are_usually_written(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    genomes = read_genomes(str(tmp_path / name), tmp_path)
    assert genomes == [{"lr": 0.5, "kind": "a b"}, {"lr": 0.001, "kind": ""}]


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "[" + "9" * 5000 + "]"])
def test_a_file_of_strange_json_is_one_line_of_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(UsageError, match=r"--warm-start .*expected JSON") as caught:
        read_genomes(str(tmp_path / "old.json"), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_huge_file_is_refused_and_a_link_of_the_user_is_followed(tmp_path: Path) -> None:
    (tmp_path / "old.json").touch()
    os.truncate(tmp_path / "old.json", 1 << 40)
    with pytest.raises(UsageError, match="expected at most"):
        read_genomes(str(tmp_path / "old.json"), tmp_path)
    (tmp_path / "good.json").write_text('{"x": 0.5}')
    (tmp_path / "link.json").symlink_to(tmp_path / "good.json")
    assert read_genomes(str(tmp_path / "link.json"), tmp_path) == [{"x": 0.5}]


def test_of_a_run_with_several_objectives_the_whole_front_is_taken(begin: Begin) -> None:
    search = drive(begin("two", strategy="random", objectives=["loss:min", "cost:max"], population=2, trials=30))
    run = search.saved
    genomes = read_genomes(str(run.folder), run.folder.parent)
    assert genomes == [trial.genome for trial in pareto_front(run)]
    assert len(genomes) > 2
