"""`run --for-scale`: what it fixes and switches on, and what it says at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from evo_tune import Choice, Float, Search
from evo_tune.cli import cli
from evo_tune.cli.for_scale import parse_aim
from evo_tune.errors import OptionError
from evo_tune.plugins.find import find_evaluator

SMALL = {"size": "small", "tokens": 4096}


def test_a_search_for_a_larger_model_has_two_widths_and_what_does_not_transfer_fixed() -> None:
    aim, plugin = parse_aim("1024x24"), find_evaluator("bundled:language_model")
    options = aim.options(SMALL)
    assert options["param"] == "completep"
    genes = aim.genes(plugin, options, {"lr": Float(1e-3, 1e-2, log=True)})
    assert genes["width"].values == (64, 96)
    assert genes["depth"].values == (2,)
    assert genes["dropout"].values == (0.0,)
    assert {"lr", "context"} <= set(genes)
    assert aim.options({"param": "mup"})["param"] == "mup"
    assert parse_aim("256x4x1e6").tokens == 10**6


@pytest.mark.parametrize("text", ["1024", "0x4", "256x4x", "256x4xmuch", "256x4x1.2.3"])
def test_an_aim_that_is_none_is_said(text: str) -> None:
    with pytest.raises(OptionError, match="WIDTHxDEPTH"):
        parse_aim(text)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["language_model", "--for-scale", "32x2"], "expected more"),
        (["image_classification", "--for-scale", "512x8"], "carry"),
        (["python train.py --lr {lr}", "--for-scale", "512x8"], "command"),
        (["language_model", "--for-scale", "512x8", "--ladder", "2x64"], "give one"),
    ],
)
def test_what_does_not_go_together_makes_no_run(flags: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["run", *flags, "--store", str(tmp_path / "runs"), "--trials", "1"])
    assert done.exit_code
    assert said in str(done.exception) + done.output
    assert not (tmp_path / "runs").exists()


def test_the_cost_is_a_share_of_the_targets_training(tmp_path: Path) -> None:
    genes = {"width": Choice((64,)), "depth": Choice((2,))}
    with Search("language_model", options=SMALL, genes=genes, trials=1, store=tmp_path, name="mine") as search:
        told = search.ask()
        assert told is not None
        search.tell(told, {"val_loss": 2.5, "flops": 1e9})
        said = parse_aim("256x4x1e6").said(search.saved, search.evaluator)
        assert "1e+09 FLOPs" in said
        assert "on 1,000,000 tokens" in said
        assert "--width 256 --depth 4 --tokens 1000000 --probe 3" in said
