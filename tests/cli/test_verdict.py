"""`evo-tune verdict` reads anybody's results, and refuses in one line what it cannot read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from evo_tune.cli import results
from tests.cli.conftest import Typed

CSV = """name,seed,val_loss,seconds
base,1,1.00,9
base,2,1.10,9
base,3,0.95,9
good,1,0.80,8
good,2,0.91,8
good,3,0.74,8
"""


def write_logs(folder: Path) -> None:
    for variant, loss in (("base", 2.0), ("good", 1.5)):
        (folder / variant).mkdir(parents=True)
        for seed in range(4):
            lines = f"step 1 val_loss {9 + seed}\nstep 2 val_loss {loss + seed / 100}\nbye\n"
            (folder / variant / f"seed{seed}.log").write_text(lines)


def test_a_table_is_read_and_its_columns_are_noticed(folder: Path, typed: Typed) -> None:
    (folder / "results.csv").write_text(CSV)
    result = typed("verdict", "results.csv", "--baseline", "base")
    assert (result.code, result.err) == (0, "")
    assert "val_loss (lower is better), gain over the baseline base: mean 1.0167 of 3" in result.out
    assert "real" in result.out
    assert "corrected for 1 comparison (Holm)" in result.out


def test_json_lines_say_the_same(folder: Path, typed: Typed) -> None:
    (folder / "results.csv").write_text(CSV)
    rows = [dict(zip(("name", "seed", "val_loss"), line.split(","), strict=False)) for line in CSV.splitlines()[1:]]
    (folder / "results.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tables = [
        typed("verdict", name, "--baseline", "base", "--format", "json") for name in ("results.csv", "results.jsonl")
    ]
    assert tables[0].out == tables[1].out
    verdict = json.loads(tables[0].out)
    assert verdict["variants"][0]["pairs"] == 3
    assert verdict["variants"][0]["gain"] == pytest.approx(0.2)
    csv = typed("verdict", "results.csv", "--baseline", "base", "--format", "csv")
    assert csv.out.startswith(
        "variant,seeds,failures,pairs,mean,gain,error,low,high,p,verdict,more_seeds,may_be_best\n"
    )


def test_columns_and_direction_can_be_said(folder: Path, typed: Typed) -> None:
    (folder / "results.csv").write_text(CSV.replace("name,seed", "who,draw"))
    words = ("verdict", "results.csv", "--baseline", "base", "--format", "json")
    assert "no column is the variant: say --variant COLUMN; the columns are who, draw, val_loss" in typed(*words).err
    verdict = json.loads(typed(*words, "--variant", "who", "--seed", "draw", "--objective", "val_loss:max").out)
    assert (verdict["direction"], verdict["variants"][0]["verdict"]) == ("max", "harmful")
    assert (
        json.loads(typed(*words, "--variant", "who").out)["variants"][0]["pairs"] == 0
    )  # no seed, so nothing is shared


def test_a_folder_of_logs_is_read(folder: Path, typed: Typed) -> None:
    write_logs(folder / "logs")
    words = ("verdict", "logs", "--baseline", "base", "--objective", "val_loss:min", "--format", "json")
    verdict = json.loads(typed(*words).out)
    assert (verdict["baseline_mean"], verdict["variants"][0]["pairs"]) == (pytest.approx(2.015), 4)
    flat = folder / "flat"
    flat.mkdir()
    for log in (folder / "logs").rglob("*.log"):
        shutil.copy(log, flat / f"{log.parent.name}-{log.name}")
    assert json.loads(typed(words[0], "flat", *words[2:]).out) == verdict
    assert json.loads(typed(*words, "--metric", "val_loss=step (\\d)").out)["baseline_mean"] == 2.0
    (folder / "logs" / "good" / "seed9.log").write_text("Traceback")
    (folder / "logs" / "good" / "notes.md").write_text("not a log")
    result = typed(*words)
    assert "1 of 9 logs have no val_loss and count as failures: good/seed9.log: the script printed no" in result.err
    assert json.loads(result.out)["variants"][0]["failures"] == 1


def test_a_link_in_a_folder_is_not_followed(folder: Path, typed: Typed) -> None:
    write_logs(folder / "logs")
    (folder / "secret").write_text("val_loss 0.1")
    os.symlink(folder / "secret", folder / "logs" / "good" / "seed7.log")
    result = typed("verdict", "logs", "--baseline", "base", "--objective", "val_loss:min")
    assert (result.code, result.out) == (2, "")
    assert "cannot read logs/good/seed7.log: it is a link" in result.err


def test_names_in_a_file_cannot_command_a_terminal(folder: Path, typed: Typed) -> None:
    (folder / "results.csv").write_text(CSV.replace("good", "go\x1b[2Jod"))
    result = typed("verdict", "results.csv", "--baseline", "base")
    assert result.code == 0
    assert "\x1b" not in result.out


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        ("", [], "has no results"),
        ("name,seed,val_loss\n", [], "has no results"),
        ("name,seed,val_loss\na,1\n", [], "line 2: 2 columns: expected 3, as in line 1"),
        ('name,seed,val_loss\n"a,1,2\n', [], "expected CSV"),
        ("name,seed,val_loss\na,1,much\n", [], "line 2, val_loss: 'much' is no number"),
        ("name,seed,val_loss\na,1,1\na,1,2\n", [], "line 3: the variant has seed 1 twice"),
        ("name,seed,x,y\na,1,1,2\n", [], "no column is the metric: say --objective METRIC:min; the columns are name"),
        ("name,seed,loss,accuracy\na,1,1,2\n", [], "no column is the metric"),
        ("name,loss\na,1\n", ["--objective", "lost:min"], "no column is the metric"),
        ("name,loss\na,1\n", ["--objective", "loss"], "expected METRIC:min or METRIC:max"),
        ("name,loss\na,1\nb,2\n", ["--baseline", "c"], "expected a variant or a number; the variants are a, b"),
    ],
)
def test_wrong_input_is_one_line(folder: Path, typed: Typed, content: str, flags: list[str], said: str) -> None:
    (folder / "results.csv").write_text(content)
    result = typed("verdict", "results.csv", "--baseline", "a", *flags)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "line 1: [1]: expected a JSON object"),
        ("{", "expected JSON lines"),
        ("[" * 5000, "expected JSON lines"),
        ('{"name": "a", "loss": [1]}', "[1] is no number"),
        ('{"name": "a", "loss": "1e"}', "'1e' is no number"),
    ],
)
def test_wrong_json_is_one_line(folder: Path, typed: Typed, line: str, said: str) -> None:
    (folder / "results.jsonl").write_text(line)
    result = typed("verdict", "results.jsonl", "--baseline", "a")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err


def test_limits_hold(folder: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    write_logs(folder / "logs")
    words = ("verdict", "logs", "--baseline", "base", "--objective", "val_loss:min")
    assert "name the metric" in typed(*words[:4]).err
    assert "no log in logs has a value: base/seed0.log" in typed(*words[:-1], "lost:min").err
    for name, limit, said in (
        ("MOST_LOGS", 7, "more than 7 logs"),
        ("LARGEST", 10, "cannot read logs/base/seed0.log"),
        ("MOST_VARIANTS", 1, "has 2 variants in variant: expected at most 1"),
    ):
        with monkeypatch.context() as limited:
            limited.setattr(results, name, limit)
            assert said in typed(*words).err


def test_only_the_last_lines_of_an_endless_log_are_read(typed: Typed, folder: Path) -> None:
    (folder / "logs").mkdir()
    for name, loss in (("a", 1), ("b", 2)):
        (folder / "logs" / f"{name}-1.log").write_text(
            f"loss 7\nloss {loss}\n" + ("\n" * 1_000_001 if name == "b" else "")
        )
    done = typed("verdict", "logs", "--baseline", "1", "--objective", "loss:min")
    assert "1 of 2 logs have no loss" in done.err
