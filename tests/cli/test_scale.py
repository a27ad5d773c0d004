"""`evo-tune scale`, from a run to probes and a file of flags."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evo_tune import Choice, Search
from evo_tune.cli import cli
from evo_tune.cli.training.scaling import observations, scale_run
from evo_tune.genome.trial import Outcome
from evo_tune.store.run import Run
from evo_tune.training.scale.recipe import TransferRequest
from tests.here import Here

SAMPLE = Path(__file__).parents[2] / "populations" / "sample"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLE, tmp_path / "sample")
    return tmp_path


def scale(store: Path, *flags: str) -> Result:
    return CliRunner().invoke(cli, ["scale", "sample", "--store", str(store), *flags])


WANTED = ("--width", "256", "--depth", "8", "--tokens", "1e8")


def test_everything_is_told_as_json(store: Path) -> None:
    done = scale(store, *WANTED, "--speed", "1e5", "--price-per-hour", "2", "--format", "json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["hours"] == pytest.approx(1e8 / 1e5 / 3600)
    assert told["price"] == pytest.approx(2 * told["hours"])
    assert {row["law"] for row in told["laws"]} >= {"this run", "Step Law", "DeepSeek LLM", "nanochat"}
    assert all(row["outside"] and row["outside_run"] for row in told["laws"][1:3])
    assert told["target"]["parameters"] > told["found"]["parameters"]
    assert {row["gene"] for row in told["rows"]} == set(told["genome"])
    assert told["loss"]["identifiable"] or told["loss"]["why"]


def test_a_page_for_people_names_rules_laws_memory_and_hours(store: Path) -> None:
    done = scale(store, *WANTED)
    assert done.exit_code == 0, done.output
    for text in ("not transferable", "arXiv:2405.13698", "Step Law", "compute-optimal", "GPU", "hours:", "predicted"):
        assert text in done.output


def test_wrong_input_is_one_line(store: Path) -> None:
    for flags, said in (
        (("--width", "250", "--depth", "8", "--tokens", "1e8"), "multiple"),
        ((*WANTED[:4], "--tokens", "much"), "whole number"),
        ((*WANTED, "--trial", "999"), "--trial 999"),
        ((*WANTED, "--emit", str(store / "sample" / "_run.json")), "exists"),
    ):
        done = scale(store, *flags)
        assert done.exit_code
        assert said in str(done.output) + str(done.exception)


def test_a_target_that_takes_longer_than_the_search_is_not_probed_by_default(store: Path) -> None:
    done = scale(store, *WANTED)
    assert "3 trainings at the target take about" in done.output
    assert "not probed; --probe 3 is cheaper" in done.output
    assert "not probed" not in scale(store, *WANTED, "--probe", "0").output


def test_a_batch_at_an_end_of_its_range_is_said(tmp_path: Path) -> None:
    given = {"data": str(SAMPLE.parents[1] / "README.md"), "tokens": 2048, "size": "2x64x64x512"}
    for batch, said in ((128, True), (512, False)):
        with Search("language_model", options=given, trials=1, store=tmp_path, name=f"b{batch}") as search:
            told = search.ask()
            assert told is not None
            search.tell(told, {"val_loss": 2.5})
        run = search.saved
        trial = replace(
            run.trials()[0], candidate=replace(run.trials()[0].candidate, genome={**told.genome, "batch": batch})
        )
        wanted = TransferRequest(width=128, depth=4, tokens=8192)
        remarks = scale_run(run, search.evaluator, wanted, trial=trial).remarks
        assert any("at an end of its range, 128 to 2048" in one for one in remarks) == said
        often = scale_run(run, search.evaluator, replace(wanted, tokens=10**6), trial=trial).remarks
        for lines, has_remark in ((remarks, False), (often, told.genome["ngrams"] > 1)):
            assert any("embeddings of n-grams learn by heart" in line for line in lines) == has_remark
        assert told.genome["ngrams"] == 5


@pytest.mark.slow
def test_the_recipe_is_probed_at_an_affordable_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo_tune.loop.slots.open_slots", lambda task, *_: [Here(task)])
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log. " * 400, encoding="utf-8")
    store = tmp_path / "runs"
    given = {"data": str(text), "tokens": 2048, "eval_tokens": 512, "size": "2x64x64x512"}
    genes = {"width": Choice((32,)), "depth": Choice((1,))}
    with Search("language_model", options=given, genes=genes, trials=1, store=store, name="mine") as search:
        told = search.ask()
        assert told is not None
        metrics = {"val_loss": 2.5, "params": 3e4, "tokens": 2048.0, "flops": 4e8, "tokens_per_second": 1e4}
        search.tell(told, Outcome("ok", metrics, seconds=1000.0))
    wanted = ["scale", "mine", "--store", str(store), "--width", "64", "--depth", "2", "--tokens", "2048"]
    done = CliRunner().invoke(cli, wanted)
    assert done.exit_code == 0, done.output
    assert "probing its learning rate, half and twice of it" in done.output
    assert re.search(r"^probes\b", done.output, re.MULTILINE)
    probes = Run.open(store / "mine-target-2x64").trials()
    rates = sorted(trial.genome["lr"] / told.genome["lr"] for trial in probes)
    assert rates == pytest.approx([0.5, 1.0, 2.0])
    assert [(trial.genome["width"], trial.genome["depth"]) for trial in probes] == [(64, 2)] * 3


@pytest.mark.slow
def test_probes_are_a_run_and_a_file_that_trains_the_target_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo_tune.loop.slots.open_slots", lambda task, *_: [Here(task)])
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log. " * 400, encoding="utf-8")
    store, runner = tmp_path / "runs", CliRunner()
    given = {"data": str(text), "tokens": 2048, "eval_tokens": 512, "size": "2x64x64x512"}
    genes = {"width": Choice((32,)), "depth": Choice((1,))}
    with Search("language_model", options=given, genes=genes, trials=1, store=store, name="mine") as search:
        told = search.ask()
        assert told is not None
        search.tell(told, {"val_loss": 2.5, "params": 3e4, "tokens": 2048.0, "flops": 4e8, "tokens_per_second": 1e4})
    wanted = ["scale", "mine", "--store", str(store), "--width", "64", "--depth", "4", "--tokens", "2048"]
    probed = [*wanted, "--probe", "2", "--emit", str(tmp_path / "target.toml"), "--format", "json"]
    done = runner.invoke(cli, probed)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["probe"]
    assert row["trainings"] == 2
    assert row["confirmed"] is not None
    assert 32 < row["width"] < 64 or row["depth"] == 2
    probe = Run.open(store / "mine-probe-4x64")
    short = Run.open(store / "mine-probe-4x64-short")
    seen = observations([probe, short, Run.open(store / "mine")], "val_loss")
    assert len(seen) == 5
    assert len({one.parameters for one in seen}) == 2
    assert max(one.tokens for one in seen) > 3 * min(one.tokens for one in seen), "what text brings can be seen"
    assert [trial.genome["width"] for trial in short.trials()] == [row["width"]] * 2
    emitted = (tmp_path / "target.toml").read_text(encoding="utf-8")
    for line in ('name = "mine-4x64"', "base_width = 32", 'heads = "8"', 'width = "64"', "tokens = 2048"):
        assert line in emitted
