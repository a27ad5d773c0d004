"""A recipe at another size: each gene by its rule, the file that trains it, and what probes say."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from evo_tune.cli.flags import flag_texts
from evo_tune.errors import OptionError, PluginError, UsageError
from evo_tune.genome.trial import Candidate, Outcome, Trial
from evo_tune.plugins.evaluator import BoundEvaluator, Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training.recipe.transferring import GeneMove, TransferResult
from evo_tune.training.scale.recipe import (
    ScaledRecipe,
    TargetLoss,
    TransferRequest,
    probe_rates,
    probe_results,
    probe_sizes,
    recipe_at,
    recipe_config_toml,
)

GENOME = {
    "lr": 0.004,
    "batch": 512,
    "depth": 2,
    "width": 64,
    "heads": 4,
    "dropout": 0.1,
    "weight_decay": 0.1,
    "warmup": 0.05,
    "context": 64,
}


@cache
def evaluator() -> Evaluator:
    return find_evaluator("bundled:language_model")


def options(**given: Any) -> BoundEvaluator:
    return evaluator().bind({"size": "2x64x64x512", "tokens": 400_000, **given})


def transfer(
    given: dict[str, Any] | None = None, genome: dict[str, Any] | None = None, **target: Any
) -> TransferResult:
    wanted = {"width": 256, "depth": 8, "tokens": 6_400_000, "batch": 2048, "memory": None, **target}
    told = options(**(given or {})).transfer({**GENOME, **(genome or {})}, wanted)
    return msgspec.convert(told, TransferResult)


def by_gene(told: TransferResult) -> dict[str, GeneMove]:
    return {row.gene: row for row in told.rows}


def of_run(name: str, recipe: TransferResult) -> ScaledRecipe:
    """Return a recipe as that of a run; what is said of its cost does not matter."""
    loss = TargetLoss(metric="val_loss", trainings=0, identifiable=False, why="no training")
    cost: dict[str, Any] = {"laws": [], "loss": loss, "optimal_tokens": 1.0, "tokens_per_parameter": 1.0}
    cost |= {"hours": None, "speed": "", "price": None}
    return ScaledRecipe(run=name, trial=0, **msgspec.structs.asdict(recipe), **cost)


def test_at_its_own_size_a_recipe_is_itself() -> None:
    told = transfer(width=64, depth=2, tokens=400_000, batch=None)
    assert told.genome == GENOME
    assert {row.kind for row in told.rows} == {"kept"}
    assert "param" not in told.options
    assert told.target.lr_hidden == pytest.approx(told.found.lr_hidden)


def test_each_gene_has_its_rule() -> None:
    told = transfer()
    assert told.genome["heads"] == 16
    assert told.genome["lr"] == pytest.approx(0.004 * 2)  # four times the batch
    assert told.genome["weight_decay"] == pytest.approx(0.1 * 2 / 16)  # B / (ηλD) stays
    assert by_gene(told)["dropout"].kind == "not transferable"
    assert all(row.source for row in told.rows if row.kind == "scaled" and row.rule != "given")
    assert told.options["param"] == "completep"
    assert (told.options["base_width"], told.options["base_depth"], told.options["base_head"]) == (64, 2, 16)
    assert told.target.lr_hidden == pytest.approx(0.004 * 2 / 4)
    assert "standard" in " ".join(told.remarks)


def test_the_target_is_judged_by_the_bytes_that_judged_the_run() -> None:
    """A longer training would be judged by more of them: its loss is told for the run's."""
    assert transfer().options["eval_tokens"] == 16_384  # of 400,000 tokens; 6,400,000 would have 262,144
    assert transfer({"eval_tokens": 10_000}).options["eval_tokens"] == 10_000


def test_the_time_scale_of_decay_by_tokens_a_weight_stands_beside() -> None:
    row = by_gene(transfer(tokens=3_200_000, batch=512))["weight_decay"]
    # 8 times the text, 64 times the weights: λ / 8 by a constant time scale, and an eighth of the tokens a weight.
    assert row.target == pytest.approx(0.1 / 8)
    assert f"{0.1 / 8 * 8**-0.52:.3g}" in row.rule


def test_more_than_four_epochs_are_said_and_fewer_than_one_drop_nothing() -> None:
    assert any("more than 4 times" in remark for remark in transfer(tokens=10**7).remarks)
    assert transfer(tokens=10**5).genome["dropout"] == 0.0


def test_the_batch_grows_with_the_text_to_whole_windows() -> None:
    told = transfer(batch=None, tokens=400_000 * 64)
    assert told.genome["batch"] == 512 * 8  # 64 ** 0.571 = 10.7, to a power of two
    assert transfer(batch=1000).genome["batch"] % 64 == 0


def test_the_runs_own_parametrisation_is_kept() -> None:
    told = transfer({"param": "completep", "base_width": 32, "base_depth": 1, "base_head": 16})
    assert (told.options["param"], told.options["base_width"]) == ("completep", 32)


def test_a_rule_of_the_batch_that_is_an_option_is_not_applied_twice() -> None:
    assert transfer({"lr_rule": "sqrt"}).genome["lr"] == 0.004


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(OptionError, match="--width 100"):
        transfer(width=100)
    with pytest.raises(OptionError, match="seconds"):
        options(tokens=None, seconds=1.0).transfer(GENOME, {"width": 64, "depth": 2, "tokens": 100})
    with pytest.raises(PluginError, match="no transfer"):
        find_evaluator("bundled:image_classification").bind({}).transfer({}, {})
    large = transfer(width=16384, depth=64, memory=24.0)
    assert large.fits[0].micro_batch is None


def test_the_file_of_flags_names_what_differs_from_the_defaults() -> None:
    tomllib = pytest.importorskip("tomllib")
    told = transfer()
    text = recipe_config_toml(
        "language_model", "mine-8x256", of_run("mine", told), options().options, evaluator().options
    )
    read = tomllib.loads(text)
    bound = evaluator().bind({name: str(value).lower() for name, value in read["option"].items()})
    assert {name: bound.options[name] for name in told.options} == told.options
    assert "clip" not in read["option"]
    assert "lr=0.008" in flag_texts(read["gene"], is_pairs=True)
    assert bound.space.repair(dict(told.genome), bound.space.genes)["heads"] <= 16


def test_no_line_of_the_file_of_flags_is_a_strangers() -> None:
    """`run --config` executes what stands in it: an address, for one, is connected to."""
    tomllib = pytest.importorskip("tomllib")
    evil = 'x\naddress = "tcp://them"\n'
    told = of_run(evil, transfer())
    told.genome = {**GENOME, 'y" = 1\naddress = "tcp://them"\n"z': 1, "a.b": 2}
    read = tomllib.loads(
        recipe_config_toml("language_model", evil, told, {**options().options, evil: evil}, evaluator().options)
    )
    assert read.keys() == {"evaluator", "name", "trials", "final_seeds", "option", "gene"}
    assert read["name"] == evil
    assert read["gene"].keys() == told.genome.keys()
    assert evil not in read["option"]


def test_probes_lie_between_around_the_transferred_rate() -> None:
    told = transfer()
    (one,) = probe_sizes(told.found, told.target, 3)
    assert (one.width, one.depth, one.tokens) == (128, 4, 400_000)
    assert len(probe_sizes(told.found, told.target, 6)) == 2
    near = msgspec.structs.replace(told.target, width=80, depth=2)
    (there,) = probe_sizes(told.found, near, 3)
    assert (there.width, there.depth) == (80, 2), "no size is in between"
    with pytest.raises(UsageError, match="of the target's size"):
        probe_sizes(told.found, told.found, 3)
    assert probe_rates(1.0, 3) == [1.0, 0.5, 2.0]


@pytest.mark.parametrize(("losses", "confirmed"), [((2.2, 2.0, 2.1), True), ((1.8, 2.0, 2.3), False)])
def test_a_transferred_rate_about_the_best_is_confirmed(losses: tuple[float, ...], confirmed: bool) -> None:
    trials = [
        Trial(
            Candidate(n, 0, 0, 0, {**GENOME, "lr": 0.004 * 2.0 ** (n - 1)}, ""),
            Outcome("ok", {"val_loss": loss}),
            n,
            (loss,),
        )
        for n, loss in enumerate(losses)
    ]
    (row,) = probe_results(trials, "val_loss", {64: 0.004})
    assert row.confirmed is confirmed
    assert row.loss == 2.0
    assert probe_results(trials[:1], "val_loss", {64: 0.004})[0].confirmed is None


@pytest.mark.parametrize("wrong", [{"rows": [{"gene": "lr"}]}, {"target": {}}, {"more": 1}])
def test_a_transfer_that_returns_no_recipe_is_an_error_of_the_evaluator(wrong: dict[str, Any]) -> None:
    good = msgspec.to_builtins(transfer())
    trial, wanted = SimpleNamespace(genome=GENOME), TransferRequest(width=256, depth=8, tokens=6_400_000)

    def returning(told: dict[str, Any]) -> Any:
        return SimpleNamespace(plugin=SimpleNamespace(name="mine"), transfer=lambda *_: told)

    assert recipe_at(returning(good), wanted, trial) == transfer()  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=r"evaluator mine: no recipe from transfer\(\) \(.*\); docs/evaluators\.md"):
        recipe_at(returning({**good, **wrong}), wanted, trial)  # type: ignore[arg-type]
