"""`run --for-scale`: what it fixes, switches on and trains, and what it says at the end, also where it went on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

import evo_tune.loop.slots
from evo_tune import Choice, Search
from evo_tune.cli import cli
from evo_tune.cli.training.scaling import (
    TRAININGS,
    observations,
    plan_scale_search,
    target_training,
    wider_default,
    write_recipe_at_target,
)
from evo_tune.errors import OptionError
from evo_tune.genome.trial import Outcome
from evo_tune.options.target_size import parse_target_size
from evo_tune.plugins.find import find_evaluator
from evo_tune.report import charts
from evo_tune.report.charts.scale import read_recipe, recipe_lines, scale_command, write_recipe
from evo_tune.report.data import RunSummary
from evo_tune.report.run_data import RunData
from evo_tune.store.run import Run
from tests.here import Here

SMALL = {"size": "2x64x64x512", "tokens": 4096}


def test_proxies_have_the_targets_context_and_head_and_batches_from_half_the_usual_one() -> None:
    target_size, plugin = parse_target_size("8x256x3e7"), find_evaluator("bundled:language_model")
    found = plan_scale_search(target_size, plugin, {}, {})
    target = target_training(target_size, plugin, {})
    space = plugin.bind(found.options).for_run(rungs=True).space.including(found.genes)
    usual = space.default()
    assert usual["context"] == target.context == 256
    assert found.genes["width"].values[0] * 8 >= 256
    assert usual["width"] // usual["heads"] == target.head == 64
    assert usual["depth"] * 4 >= 8
    assert min(found.genes["batch"].values) >= usual["batch"] / 2
    assert found.fidelity == "1/4,1"
    assert str(found.options["tokens"]) in found.explanation.replace(",", "")
    assert plan_scale_search(target_size, plugin, {"tokens": "5000"}, {}).options["tokens"] == "5000", "the user's own"
    assert plan_scale_search(target_size, plugin, {"param": "completep"}, {}).options["param"] == "completep"
    assert found.genes["dropout"].values == (0.0,)
    narrow, wider = found.genes["width"].values
    (wide,) = wider_default(plugin, found.options, found.genes)
    assert (wide["width"], wide["depth"], wide["dropout"]) == (wider, usual["depth"], 0.0)
    assert wider_default(plugin, found.options, {**found.genes, "width": Choice((narrow,))}) == [], "the user's own"
    with pytest.raises(OptionError, match="seconds"):
        plan_scale_search(target_size, plugin, {"seconds": "5"}, {})


def test_a_cheap_target_is_searched_at_its_own_size() -> None:
    plugin = find_evaluator("bundled:language_model")
    cheap = plan_scale_search(parse_target_size("2x64x1e5"), plugin, {}, {})
    assert "own size" in cheap.explanation
    assert "\n" not in cheap.explanation
    assert cheap.options["tokens"] == 100_000
    assert cheap.options["size"].startswith("2x64x")
    assert (cheap.genes["width"].values, cheap.genes["depth"].values) == ((64,), (2,))
    assert (cheap.fidelity, cheap.first_genomes, cheap.options.get("param")) == (None, [], None)
    dear = plan_scale_search(parse_target_size("8x256x3e7"), plugin, {}, {})
    assert "proxies" in dear.explanation


def test_the_hours_decide_whether_the_target_itself_is_searched_and_how_large_proxies_are() -> None:
    target_size, plugin = parse_target_size("4x128x1536000"), find_evaluator("bundled:language_model")
    takes = target_training(target_size, plugin, {}).flops

    def within(trainings: float) -> dict[str, Any]:
        return vars(plan_scale_search(target_size, plugin, {}, {}, lambda options, genes: trainings * takes))

    assert "own size" in within(TRAININGS + 1)["explanation"]
    assert "proxies" in within(TRAININGS - 1)["explanation"]
    tokens = [within(trainings)["options"]["tokens"] for trainings in (0.01, 1, 10)]
    assert tokens == sorted(set(tokens)), "more hours, longer trainings"
    assert "tokens per weight" in within(0.01)["explanation"], "fewer than the target's"


@pytest.mark.parametrize(
    "text", ["1024", "0x4", "4x256x", "4x256xmuch", "4x256x1.2.3", "9999999x4", "4x256x0.5", "4x256x1e99", "²x4"]
)
def test_an_aim_that_is_none_is_said(text: str) -> None:
    with pytest.raises(OptionError, match="DEPTHxWIDTH"):
        parse_target_size(text)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["language_model", "-o", "size=2x64", "--for-scale", "4x256"], "expected no -o size="),
        (["language_model", "--for-scale", "4x250"], "a multiple of 8, as a head has: 4x248"),
        (["image_classification", "--for-scale", "8x512"], "transfer"),
        (["python train.py --lr {lr}", "--for-scale", "8x512"], "command"),
        (["language_model", "--for-scale", "8x512", "--ladder", "2x64"], "give one"),
    ],
)
def test_what_does_not_go_together_makes_no_run(flags: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["run", *flags, "--store", str(tmp_path / "runs"), "--trials", "1"])
    assert done.exit_code
    assert said in str(done.exception) + done.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        (["--for-scale", "256x4x1e6"], "4x256"),
        (["-o", "size=128x4"], "4x128"),
        (["-o", "size=64x8x64x512"], "8x64"),
        (["--ladder", "2x64,96x4"], "4x96"),
    ],
)
def test_a_size_with_the_width_first_is_refused_with_the_right_order(
    flags: list[str], meant: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        cli, ["run", "language_model", *flags, "--store", str(tmp_path / "runs"), "--trials", "1"]
    )
    assert done.exit_code
    assert (
        f"{flags[1]}: expected DEPTHxWIDTH, the depth first: did you mean {meant}?" in str(done.exception) + done.output
    )
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def searched(tmp_path: Path) -> Callable[..., Run]:
    """Return a function that makes a run of known trainings, for a model of 4x256."""

    def make(*known: dict[str, float], tokens: str = "x1e6") -> Run:
        genes = {"width": Choice((64, 96), ordered=True, default=64), "depth": Choice((2,))}
        given: dict[str, Any] = {"options": SMALL, "genes": genes, "trials": len(known), "for_scale": f"4x256{tokens}"}
        with Search("language_model", store=tmp_path, name="mine", final_seeds=0, **given) as search:
            for metrics in known:
                told = search.ask()
                assert told is not None
                search.tell(told, Outcome("ok", {"val_loss": 2.5, **metrics}, seconds=1.0))
        write_recipe_at_target(search.saved, search.evaluator)
        return Run.open(search.saved.folder)

    return make


def test_the_cost_is_a_share_of_the_targets_training(searched: Callable[..., Run]) -> None:
    run = searched({"flops": 1e9}, {"flops": 3e9})
    told = read_recipe(run)
    assert told is not None
    assert told.search_flops == 4e9
    assert told.share == 4e9 / told.target_flops
    first, second = recipe_lines(run, told)
    assert f"4e+09 FLOPs, {4e9 / told.target_flops:.2%} of" in first
    assert "on 1,000,000 tokens" in first
    assert second.startswith("predicted val_loss of the target: none: ")
    assert "--depth 4 --width 256 --tokens 1000000" in scale_command(run, told)


def test_a_wide_interval_is_said_with_what_would_narrow_it(searched: Callable[..., Run]) -> None:
    run = searched({"flops": 1e9})
    told = read_recipe(run)
    assert told is not None
    wide = msgspec.structs.replace(told, loss=2.0, low=1.5, high=2.5, narrow="the interval is ±25%: more --hours")
    assert "the interval is ±25%: more --hours" in list(recipe_lines(run, wide))


def test_without_tokens_there_are_twenty_a_weight(searched: Callable[..., Run]) -> None:
    run = searched({"flops": 1e9}, tokens="")
    told = read_recipe(run)
    assert told is not None
    assert ", 20 a weight" in next(recipe_lines(run, told))
    assert told.tokens > 20 * 256**2 * 4 * 12


def test_a_run_for_no_larger_model_says_nothing_of_one(searched: Callable[..., Run], tmp_path: Path) -> None:
    run = searched({"flops": 1e9})
    manifest = msgspec.structs.replace(run.manifest, settings=replace(run.manifest.settings, for_scale=""))
    (run.folder / "_run.json").write_bytes(msgspec.json.encode(manifest))
    assert read_recipe(Run.open(run.folder)) is None
    assert "scale" not in charts.parts(RunData(Run.open(run.folder)))


@pytest.mark.parametrize("data", [b"", b"[1]", b'{"trial": 1}', b"\x80\x04", b"[" * 10**5, b" " * 10**6])
def test_a_strangers_file_is_no_recipe(data: bytes, searched: Callable[..., Run]) -> None:
    run = searched({"flops": 1e9})
    (run.folder / "_scale.json").write_bytes(data)
    assert read_recipe(run) is None


def test_the_report_has_a_part_about_it(searched: Callable[..., Run]) -> None:
    run = searched({"flops": 1e9, "params": 1e5}, {"flops": 2e9, "params": 2e5})
    told = read_recipe(run)
    assert told is not None
    found = charts.parts(RunData(run))["scale"]
    assert f"{told.share:.2%} of the " in found.explanation
    assert "of the target: none: " in found.explanation
    assert found.commands[0].command.endswith("--depth 4 --width 256 --tokens 1000000")
    write_recipe(run, msgspec.structs.replace(told, loss=2.0, low=1.9, high=2.2, why=""))
    assert "2 (80 % interval 1.9 to 2.2)" in charts.parts(RunData(run))["scale"].explanation


@pytest.mark.slow
def test_two_widths_and_two_budgets_are_trained_and_told_as_json_also_after_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evo_tune.loop.slots, "open_slots", lambda task, *_: [Here(task)])
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log. " * 400, encoding="utf-8")
    options = [f"-o{name}={value}" for name, value in {"data": text, "tokens": 4096, "eval_tokens": 512}.items()]
    flags = ["--for-scale", "4x128x1e5", "--final-seeds", "0", "--format", "json", "--name", "mine", "--threads", "1"]
    done = CliRunner().invoke(cli, ["run", "language_model", *options, *flags, "--trials", "2"])
    assert done.exit_code == 0, done.output + str(done.exception)
    told = msgspec.json.decode(done.stdout, type=RunSummary).scale
    run = Run.open(tmp_path / "populations" / "mine")
    seen = observations([run], "val_loss")
    assert [t.outcome.error for t in run.trials()] == [None] * 4
    apart = [
        {name for name, value in t.genome.items() if value != run.candidates[0].genome[name]} for t in run.trials()
    ]
    assert sorted(map(sorted, apart)) == [[], [], ["heads", "width"], ["heads", "width"]], "the default, at both widths"
    assert len(seen) == 4, "each width in part and in full"
    assert len({one.parameters for one in seen}) == 2
    assert max(one.tokens for one in seen) > 2 * min(one.tokens for one in seen)
    assert told.search_flops == pytest.approx(
        sum(one.outcome.metrics["flops"] for one in run.trials() if one.rankable), rel=0.3
    )
    (run.folder / "_scale.json").unlink()
    again = CliRunner().invoke(cli, ["resume", "mine", "--trials", "2", "--format", "json"])
    assert again.exit_code == 0, again.output
    assert msgspec.json.decode(again.stdout, type=RunSummary).scale == told
    shown = CliRunner().invoke(cli, ["resume", "mine", "--trials", "2"])
    assert f"{told.share:.2%} of the" in shown.output
    assert json.loads((run.folder / "_scale.json").read_text())["search_flops"] == told.search_flops


def test_a_recipe_that_cannot_be_transferred_is_a_warning(
    searched: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = searched({"flops": 1e9})
    manifest = msgspec.structs.replace(run.manifest, settings=replace(run.manifest.settings, for_scale="4x250"))
    (run.folder / "_run.json").write_bytes(msgspec.json.encode(manifest))
    write_recipe_at_target(Run.open(run.folder), find_evaluator("bundled:language_model").bind(manifest.options))
    assert capsys.readouterr().err.startswith("Warning: --for-scale 4x250: ")
