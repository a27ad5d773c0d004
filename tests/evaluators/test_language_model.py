"""The bundled language model: its space, its options, its budgets, and the model that it leaves."""

import math
import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import evo_tune
from evo_tune import Choice, Context, Float, Int, Search, SearchSpace
from evo_tune.cli import cli
from evo_tune.errors import OptionError, RecipeError, UsageError
from evo_tune.genome.notation import parse_gene
from evo_tune.genome.space import add_prior
from evo_tune.plugins.cost import Cost
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import GPT
from evo_tune.training.recipe import SIZE_LADDER, Corpus, GPTSize, hidden_width
from evo_tune.training.recipe.data import corpus
from evo_tune.training.recipe.data.texts import read_text

OFF = {
    "schedule": ("cosine", "linear", "constant", "wsd", "multi_step", "sgdr"),
    "ffn_mult": (2.0, 2.667, 4.0),
    "window": (8, 16, 32, 64, 128, 256),
    "kv_heads": (1, 2, 4, 8),
    "beta2": (0.9, 0.95, 0.98, 0.99, 0.995, 0.999),
}
"""Genes that are off until they are named, and their values in the space 2x64."""

COST = Cost({"step": 1e-3, "products": 1e-11}, start=0.01, judging=0.5).text()
TINY = {"size": "2x64x64x512", "tokens": 4096, "eval_tokens": 1024}


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return find_evaluator("language_model")


@pytest.fixture(scope="module")
def module(evaluator: Evaluator) -> ModuleType:
    return evaluator.module


@pytest.fixture(scope="module")
def default(module: ModuleType) -> dict[str, Any]:
    return {name: gene.middle() for name, gene in module.SPACE(module.Options(size="2x64x64x512")).genes.items()}


@pytest.fixture
def train(evaluator: Evaluator, tmp_path: Path) -> Callable[..., tuple[dict[str, float], Context]]:
    """Train a genome with a tiny budget; keywords in capitals go to the context, others are options."""

    def run(genome: dict[str, Any], **given: Any) -> tuple[dict[str, float], Context]:
        context = {name.lower(): given.pop(name) for name in list(given) if name.isupper()}
        made = Context(**{"seed": 1, "folder": tmp_path / "trial", **context})
        budget = {} if {"flops", "seconds"} & set(given) else {"tokens": 4096}
        options = {"size": "2x64x64x512", "eval_tokens": 512, **budget, **given}
        return evaluator.bind(options).evaluate(genome, made), made

    return run


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("tokens_per_second", "resumed_step")}


# ---------------------------------------------------------------- the space


@pytest.mark.parametrize("size", ["tiny", "small", "medium", "large"])
def test_every_genome_is_a_shape_and_repair_is_settled(module: ModuleType, size: str) -> None:
    space, rng = module.SPACE(module.Options(size=size)), np.random.default_rng(1)
    for genome in [space.sample(rng) for _ in range(200)]:
        assert genome["width"] % (8 * genome["heads"]) == 0
        assert genome["batch"] % genome["context"] == 0
        assert space.check(genome) == genome
        assert module.estimate(genome, module.Options(size=size))["params"] > 0


def test_heads_go_to_the_nearest_divisor_and_ties_go_down(module: ModuleType, default: dict[str, Any]) -> None:
    space = module.SPACE(module.Options(size="2x64x64x512"))
    repaired = [space.check({**default, "width": 64, "heads": heads})["heads"] for heads in range(1, 9)]
    assert repaired == [1, 2, 2, 4, 4, 4, 8, 8]
    assert space.check({**default, "width": 32, "heads": 8})["heads"] == 4
    own = SearchSpace(space.repair, None, **{**space.genes, "width": Choice((36,))})  # a width of the user's own
    assert own.check({**default, "width": 36, "heads": 5})["heads"] == 6


def test_a_fixed_context_is_no_gene(module: ModuleType, train: Callable[..., Any]) -> None:
    space = module.SPACE(module.Options(size="2x64x64x512", context=1024))
    assert "context" not in space.genes
    assert space.genes["batch"].values == (1024, 2048)
    genome = {name: gene.middle() for name, gene in space.genes.items()}
    assert train(genome, context=1024, eval_tokens=1024)[0]["tokens"] == 4096


def test_optional_genes_come_with_the_options_as_defaults(evaluator: Evaluator) -> None:
    space = evaluator.bind({"size": "2x64x64x512", "beta2": 0.99}).space
    optional = {name: values for name, values in OFF.items() if name not in space.genes}
    assert {name: space.optional[name].values for name in optional} == optional  # type: ignore[union-attr]
    assert not set(space.genes) & set(space.optional)
    assert not set(space.optional) & {"data", "size", "vocab", "context", "flops", "ranks", "precision", "save"}
    assert space.including(optional).default()["beta2"] == 0.99


def test_what_matters_is_a_gene_at_every_size_unless_an_option_is_given(evaluator: Evaluator) -> None:
    for size in ("tiny", "small", "medium", "large", "3x96"):
        space = evaluator.bind({"size": size}).space
        usual = space.default()
        own = ("optimizer", "position", "qk_norm", "value_embeddings", "lr_embedding", "decay_fraction")
        assert [usual[name] for name in own] == ["muon", "rope", False, False, 3.0, 0.5]
        for gene in space.genes.values():
            assert 0.0 < gene.encode(gene.middle()) < 1.0 or gene.middle() in (0.0, False, "muon", "rope")
    given = {"optimizer": "adamw", "position": "learned", "qk_norm": True, "value_embeddings": True}
    given |= {"lr_embedding": 1.0, "decay_fraction": 0.2, "ngrams": 2}
    assert not set(given) & set(evaluator.bind(given).space.genes)


@pytest.mark.parametrize(
    ("options", "default"),
    [({"size": "tiny"}, 5), ({"size": "small"}, 1), ({"size": "small", "tokens": 10000}, 5), ({"tokens": 10**6}, 1)],
)
def test_ngrams_are_the_default_where_a_text_is_read_twice_at_most(
    evaluator: Evaluator, options: dict[str, Any], default: int
) -> None:
    assert evaluator.bind(options).space.default()["ngrams"] == default
    assert "ngrams" not in evaluator.bind({**options, "ngrams": 4}).space.default()


@pytest.mark.parametrize("size", ["3", "3x", "0x64", "3x60", "3x96x64", "3x96x0x64", "x" * 1000, "9" * 9 + "x64"])
def test_a_size_that_is_none_is_refused(module: ModuleType, size: str) -> None:
    with pytest.raises(OptionError, match="expected auto, tiny, small"):
        module.Options(size=size)


def test_a_budget_chooses_the_size(module: ModuleType) -> None:
    def weights(**budget: Any) -> int:
        size = module._size(module.Options(**budget))
        return int(12 * size.depth * size.width**2)

    by_tokens = [weights(tokens=10**power) for power in range(3, 11)]
    assert by_tokens == sorted(by_tokens)
    assert by_tokens[0] < 20_000 < 50_000_000 < by_tokens[-1]
    by_flops = [weights(flops=10.0**power) for power in range(8, 20)]
    assert by_flops == sorted(by_flops)
    by_seconds = [weights(seconds=10.0**power, cost=COST) for power in range(-2, 6)]
    assert by_seconds == sorted(by_seconds)
    assert by_seconds[0] < by_seconds[-1]
    for size in SIZE_LADDER:
        own = GPTSize.parse(size)
        assert module._size(module.Options(flops=own.flops)) == own, "its own budget suits it"


@pytest.mark.parametrize("size", ["tiny", "small", "medium"])
def test_with_every_gene_on_every_genome_is_a_training_and_repair_is_settled(evaluator: Evaluator, size: str) -> None:
    options, rng = evaluator.bind({"size": size}), np.random.default_rng(2)
    space = options.space
    space = space.including(space.optional)
    own = {"window": Int(5, 100), "kv_heads": Choice((1, 3, 4)), "ffn_mult": Float(0.5, 8.0)}
    for genes in (space.genes, {**space.genes, **own}):
        one = SearchSpace(space.repair, None, **genes)
        for genome in [one.sample(rng) for _ in range(200)]:
            assert one.check(genome) == genome
            assert options.estimate(genome)["params"] > 0


def test_genes_that_change_nothing_have_one_value(evaluator: Evaluator) -> None:
    space = evaluator.bind({"size": "2x64x64x512"}).space
    space = space.including(["window", "kv_heads", "decay_fraction", "schedule"])
    genome = {**space.default(), "context": 64, "heads": 4}
    assert {space.check({**genome, "window": window})["window"] for window in (64, 256)} == {256}
    assert space.check({**genome, "window": 32})["window"] == 32
    longer = {**genome, "context": 256}
    assert {space.check({**longer, "window": window})["window"] for window in (64, 128)} == {64, 128}
    assert {space.check({**genome, "kv_heads": heads})["kv_heads"] for heads in (4, 8)} == {4}
    shares = {
        name: {space.check({**genome, "schedule": name, "decay_fraction": x})["decay_fraction"] for x in (0.2, 0.5)}
        for name in ("wsd", "cosine")
    }
    assert [len(shares[name]) for name in ("wsd", "cosine")] == [2, 1]


def test_a_window_that_costs_more_than_full_attention_is_none(evaluator: Evaluator) -> None:
    """Beyond 256 tokens, those of more than a quarter of the context (benchmarks/LOG.md)."""
    space = evaluator.bind({"size": "2x64x512x2048", "context": 512}).space.including(["window"])
    windows = {n: space.check({**space.default(), "window": n})["window"] for n in space.genes["window"].values}
    assert windows == {**{n: n for n in (8, 16, 32, 64, 128)}, 256: 512, 512: 512}
    short = SearchSpace(space.repair, None, **{**space.genes, "window": Int(5, 200)})
    assert short.check({**short.default(), "window": 150})["window"] == 150, "no value of the gene is full attention"


def test_feed_forward_layers_of_one_width_are_one_genome(evaluator: Evaluator) -> None:
    space = evaluator.bind({"size": "2x64x64x512"}).space.including(["ffn_mult"])
    genome = {**space.default(), "width": 32, "heads": 4}
    values = (2.0, 2.667, 4.0)  # no two of the choices are the same training
    assert tuple(space.check({**genome, "ffn_mult": x})["ffn_mult"] for x in values) == values
    for own in (Choice((2.0, 2.01, 2.667)), Float(1.9, 3.0)):
        one = SearchSpace(space.repair, None, **{**space.genes, "ffn_mult": own})
        alike = {one.check({**genome, "ffn_mult": x})["ffn_mult"] for x in (2.0, 2.01)}
        other = one.check({**genome, "ffn_mult": 2.667})["ffn_mult"]
        widths = {hidden_width(32, x) for x in alike}
        assert (len(alike), widths, hidden_width(32, other)) == (1, {64}, 85)


def test_a_gene_takes_the_place_of_its_option(train: Callable[..., Any], default: dict[str, Any]) -> None:
    given = {"position": "rope", "window": 16, "kv_heads": 2, "qk_norm": True, "beta2": 0.99}
    given |= {"schedule": "wsd", "decay_fraction": 0.5, "ffn_mult": 2.0}
    others = {name: value for name, value in default.items() if name not in given}
    by_gene, by_option = train({**default, **given})[0], train(others, **given)[0]
    assert without_clock(by_gene) == without_clock(by_option)
    assert by_gene["val_loss"] != train(default)[0]["val_loss"]


@pytest.mark.parametrize(
    ("gene", "said"),
    [
        ("window=0|8", "--gene window, at 0: window=0"),
        ("ffn_mult=float(-1,4)", "--gene ffn_mult, at -1.0: ffn_mult=-1.0"),
        ("position=learned|alibi", "--gene position, at alibi: position='alibi'"),
        ("beta2=float(0.9,1)", "--gene beta2, at 1.0: beta2=1.0"),
        ("lr=log(0.1,2)", "--gene lr, at 2.0: lr=2.0"),
        ("warmup=float(0,0.9)", "--gene warmup, at 0.9: warmup_fraction=0.9"),
        ("qk_norm=3", "--gene qk_norm: 3 is not allowed: expected true or false"),
        ("windows=8", "did you mean window"),
    ],
)
def test_a_gene_of_the_users_own_is_checked_before_the_run(tmp_path: Path, gene: str, said: str) -> None:
    name, _, text = gene.partition("=")
    with pytest.raises(UsageError, match=re.escape(said)):
        Search("language_model", options=TINY, genes={name: parse_gene(name, text)}, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_auto_is_tiny_without_a_gpu(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert module.SPACE(module.Options()).describe() == module.SPACE(module.Options(size="tiny")).describe()


def test_a_run_without_a_gpu_and_budget_searches_the_tiny_space(
    evaluator: Evaluator, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    begun = evaluator.bind({}).for_run(False)
    assert (begun.options["size"], begun.options["optimizer"]) == ("tiny", "auto")
    space = begun.space
    assert space.genes["optimizer"] == add_prior(Choice(("adamw", "muon"), default="muon"))
    assert space.describe() == evaluator.bind({"size": "tiny"}).space.describe()
    for given, genes in ({"optimizer": "sgd"}, False), ({"size": "2x64x64x512"}, True), ({"size": "tiny"}, True):
        assert ("optimizer" in evaluator.bind(given).for_run(False).space.genes) == genes


# ---------------------------------------------------------------- the training


@pytest.mark.slow
def test_it_learns_and_says_what_it_spent(
    module: ModuleType, train: Callable[..., Any], default: dict[str, Any], tmp_path: Path
) -> None:
    metrics, context = train(default, tokens=40_000)
    assert 1.5 < metrics["val_loss"] < 3.5 < math.log(256)
    assert metrics["val_bpb"] == pytest.approx(metrics["val_loss"] / math.log(2))
    assert abs(metrics["train_loss"] - metrics["val_loss"]) < 0.6
    estimate = module.estimate(default, module.Options(size="2x64x64x512", tokens=40_000))
    assert {name: metrics[name] for name in estimate} == estimate
    assert metrics["tokens"] == 40_000
    assert set(metrics) == set(module.METRICS) - {"val_loss_ema", "context_gain", "mfu"}
    assert metrics["steps"] == math.ceil(40_000 / default["batch"])
    assert metrics["final_lr_fraction"] == pytest.approx(0.0, abs=0.01)
    assert [fraction for fraction, _ in context.curve] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.02)
    losses = [point["val_loss"] for _, point in context.curve]
    assert losses == sorted(losses, reverse=True)
    assert not (tmp_path / "trial").exists()  # nothing to keep


def test_the_same_seed_gives_the_same_numbers(train: Callable[..., Any], default: dict[str, Any]) -> None:
    genome = {**default, "dropout": 0.1}
    first, second, other = train(genome)[0], train(genome)[0], train(genome, SEED=2)[0]
    assert without_clock(first) == without_clock(second)
    assert first["val_loss"] != other["val_loss"]


def test_flops_are_held_equal_across_sizes(train: Callable[..., Any], default: dict[str, Any]) -> None:
    for shape in ({"width": 32}, {"depth": 1}, {"context": 128}):
        metrics, _ = train({**default, **shape}, flops=2e9)
        assert metrics["flops"] == pytest.approx(2e9, rel=0.04)  # to a window


def test_a_time_buys_the_steps_that_the_measured_cost_allows(
    module: ModuleType, train: Callable[..., Any], default: dict[str, Any]
) -> None:
    genome = {**default, "depth": 1, "width": 32}
    half, _ = train(genome, seconds=0.1, cost=COST, BUDGET=0.5)
    whole, _ = train(genome, seconds=0.1, cost=COST)
    assert half["steps"] == -(-whole["steps"] // 2)
    options = module.Options(size="2x64x64x512", seconds=10.0, cost=COST)
    work, cost = module.work(genome, options), Cost.parse(COST)
    assert module.estimate(genome, options)["seconds"] == pytest.approx(10.0, rel=0.02)
    larger = {**genome, "depth": 4, "width": 128}
    assert cost.step(module.work(larger, options)) > cost.step(work)
    tokens = [module.estimate(one, options)["tokens"] for one in (genome, larger)]
    assert tokens[1] < tokens[0]
    assert module.estimate(larger, options)["seconds"] == pytest.approx(10.0, rel=0.02), "equal time for every genome"


def test_phases_share_a_time_by_what_their_steps_cost(module: ModuleType, default: dict[str, Any]) -> None:
    options = module.Options(
        size="2x64x64x512", seconds=20.0, cost=COST, context=128, extend_from=32, extend_share=0.25
    )
    genome = {name: value for name, value in default.items() if name != "context"}
    assert module.estimate(genome, options)["seconds"] == pytest.approx(20.0, rel=0.05)


def test_rungs_resumed_equal_one_training(train: Callable[..., Any], default: dict[str, Any], tmp_path: Path) -> None:
    genome = {**default, "dropout": 0.1, "batch": 512}
    whole, _ = train(genome)
    rungs: list[dict[str, float]] = []
    for budget, before in ((1 / 9, None), (1 / 3, "1"), (1.0, "2")):
        number = str(len(rungs) + 1)
        folder = tmp_path / before if before else None
        rungs.append(train(genome, BUDGET=budget, FOLDER=tmp_path / number, RESUME_FOLDER=folder)[0])
    assert [rung["steps"] for rung in rungs] == [1, 3, 8]
    assert [rung.get("resumed_step") for rung in rungs] == [None, 1, 3]
    assert without_clock(rungs[2]) == without_clock(whole)
    assert not (tmp_path / "3").exists()


RESUMED: dict[str, dict[str, Any]] = {
    "wsd": {"schedule": "wsd"},
    "multi_step": {"schedule": "multi_step", "optimizer": "muon"},
    "constant": {"schedule": "constant", "optimizer": "sgd"},
    "byte pairs": {"vocab": 300},
    "gap": {"weight_decay_end": 0.3, "gap_patience": 1, "evaluations": 8},
    "patience": {"patience": 2, "evaluations": 8, "min_delta": 0.1},
    "stopped early": {"patience": 1, "evaluations": 8, "min_delta": 9.0},
    "average": {"ema": 0.5},
    "long text": {"context": 128, "extend_from": 64, "extend_share": 0.5, "ema": 0.5},
    "long text, rope": {"context": 128, "extend_from": 64, "position": "rope", "extension": "yarn"},
}
SAMPLED: dict[str, tuple[Any, ...]] = {
    "schedule": ("wsd", "multi_step", "constant"),
    "optimizer": ("adamw", "muon", "sgd"),
    "window": (None, 8),
    "kv_heads": (None, 2),
    "ema": (None, 0.9),
    "weight_decay_end": (None, 0.3),
    "recompute": (None, 1),
    "micro_batch": (None, 128),
    "vocab": (256, 300),
    "extend_from": (None, 32),
}
for number in range(5):
    draw = random.Random(number)
    RESUMED[f"sample {number}"] = {name: draw.choice(values) for name, values in SAMPLED.items()} | {"context": 64}


IN_OTHERS = ("wsd", "long text, rope", "sample 1", "sample 3", "sample 4")
"""What other rows have as well, and all but two of the samples: they are a proof."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.proof if name in IN_OTHERS else ()) for name in RESUMED]
)
def test_a_quarter_and_the_rest_are_one_training(
    train: Callable[..., Any], default: dict[str, Any], tmp_path: Path, name: str
) -> None:
    genome = {**default, "depth": 1, "width": 32, "dropout": 0.1, "lr": 1e-2}
    options = {**RESUMED[name], "eval_tokens": 512}
    if "context" in options:
        del genome["context"]
    whole, context = train(genome, **options)
    quarter, first = train(genome, BUDGET=0.25, FOLDER=tmp_path / "quarter", **options)
    rest, second = train(genome, FOLDER=tmp_path / "rest", RESUME_FOLDER=tmp_path / "quarter", **options)
    assert 0 < quarter["steps"] <= max(2.0, 0.5 * whole["steps"])
    assert rest["resumed_step"] == quarter["steps"]
    assert without_clock(rest) == without_clock(whole)
    assert [point for point in first.curve + second.curve if point in context.curve] == context.curve


@pytest.mark.parametrize("name", [pytest.param("fp32", marks=pytest.mark.proof), "bf16"])
def test_a_training_goes_on_in_the_precision_that_it_began_with(
    name: str, train: Callable[..., Any], default: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(answer: str) -> None:
        monkeypatch.setattr("evo_tune.training.hardware.precision.fastest_precision", lambda device, narrow: answer)

    answers(name)
    straight, _ = train(default)
    fixed, _ = train(default, precision=name)
    train(default, BUDGET=0.5, FOLDER=tmp_path / "half")
    answers({"fp32": "bf16", "bf16": "fp32"}[name])  # another machine
    resumed, _ = train(default, RESUME_FOLDER=tmp_path / "half", FOLDER=tmp_path / "whole")
    assert straight["bf16"] == (name == "bf16")
    fixed["gpu_memory"] = straight["gpu_memory"]  # predicted by the option, which is not the same
    assert without_clock(straight) == without_clock(fixed) == without_clock(resumed)
    assert resumed["resumed_step"] > 0
    assert train(default)[0]["val_loss"] not in (straight["val_loss"], math.nan)
    with pytest.raises(RecipeError, match="recipe"):
        train(default, RESUME_FOLDER=tmp_path / "half", precision={"fp32": "bf16", "bf16": "fp32"}[name])


def test_without_its_checkpoint_a_rung_starts_anew(
    train: Callable[..., Any], default: dict[str, Any], tmp_path: Path
) -> None:
    metrics, _ = train(default, RESUME_FOLDER=tmp_path / "lost")
    assert metrics.pop("resumed_step") == 0
    assert without_clock(metrics) == without_clock(train(default)[0])


def test_a_checkpoint_of_another_training_is_refused(
    train: Callable[..., Any], default: dict[str, Any], tmp_path: Path
) -> None:
    train(default, save=True)
    folder = tmp_path / "trial"
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
    with pytest.raises(OptionError, match="belongs to"):
        train({**default, "lr": 1e-3}, RESUME_FOLDER=folder)
    with pytest.raises(RecipeError, match="recipe"):
        train(default, RESUME_FOLDER=folder, schedule="linear")


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_micro_batches_change_no_more_than_rounding(
    dropout: float, train: Callable[..., Any], default: dict[str, Any]
) -> None:
    default = {**default, "dropout": dropout, "optimizer": "adamw", "lr": 1e-3}  # Muon amplifies rounding
    whole, parts = train(default)[0], train(default, micro_batch=192)[0]
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-4)
    assert parts["steps"] == whole["steps"]


def test_vocabularies_are_compared_by_the_byte(train: Callable[..., Any], default: dict[str, Any]) -> None:
    plain, pairs = (train(default, vocab=vocab)[0] for vocab in (256, 512))
    assert pairs["val_loss"] > plain["val_loss"]  # of two bytes and more
    assert pairs["val_bpb"] < plain["val_bpb"]
    assert pairs["perplexity"] == pytest.approx(math.exp(pairs["val_loss"]))


@pytest.mark.slow
def test_byte_pairs_are_learned_from_the_training_part_only(module: ModuleType, tmp_path: Path) -> None:
    text = b"the cat sat on the mat " * 200
    prints = []
    for ending in ("zyx", "xyz"):
        (tmp_path / ending).write_bytes(text + ending.encode() * 170)
        prints.append(Corpus(str(tmp_path / ending), 270, 128).prepared.tokenizer.to_json())  # type: ignore[attr-defined]
    assert prints[0] == prints[1]
    assert module.fingerprint(module.Options(size="2x64x64x512", vocab=270)) != module.fingerprint(
        module.Options(size="2x64x64x512", vocab=271)
    )


def test_a_long_text_keeps_its_budget_and_tells_what_its_length_brings(
    module: ModuleType, train: Callable[..., Any], default: dict[str, Any]
) -> None:
    options = {"context": 256, "extend_from": 64, "extend_share": 0.25}
    genome = {name: value for name, value in default.items() if name != "context"}
    for budget in ({"flops": 4e9}, {"tokens": 8192}):
        metrics = train(genome, **options, **budget)[0]
        ((name, amount),) = budget.items()
        assert metrics[name] == pytest.approx(amount, rel=0.05)
        estimate = module.estimate(genome, module.Options(size="2x64x64x512", **options, **budget))
        assert {key: metrics[key] for key in estimate} == estimate
        halves = metrics["val_loss_first_half"] + metrics["val_loss_second_half"]
        assert halves / 2 == pytest.approx(metrics["val_loss"], rel=0.01)
        assert "context_gain" in metrics
    part = train(genome, **options, tokens=8192, BUDGET=0.25)[0]
    assert "context_gain" not in part  # it has not come to the long windows


def test_it_stops_early_and_takes_the_best_weights(train: Callable[..., Any], default: dict[str, Any]) -> None:
    metrics, context = train(default, patience=2, evaluations=8, min_delta=9.0)
    assert [round(fraction, 3) for fraction, _ in context.curve] == [0.125, 0.25, 0.375]
    assert metrics["steps"] == 3
    first = train(default, evaluations=8, BUDGET=0.125)[0]
    assert metrics["val_loss"] == first["val_loss"]


def test_a_lost_training_is_diverged(train: Callable[..., Any], default: dict[str, Any], tmp_path: Path) -> None:
    from evo_tune.training import Diverged

    with pytest.raises(Diverged) as caught:
        train({**default, "lr": 1.0, "warmup": 0.0, "weight_decay": 0.3}, clip=1e9, tokens=200_000)
    assert caught.value.status == "diverged"


# ---------------------------------------------------------------- text and options


def test_every_option_says_what_it_is_for(evaluator: Evaluator) -> None:
    for one in evaluator.options.values():
        assert one.help, f"{one.name} has no help"
        assert len(one.help) <= 100
        assert one.group
    with pytest.raises(OptionError, match="widow"):
        evaluator.bind({"widow": 3})


def test_a_file_a_folder_and_a_glob(module: ModuleType, train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "text" / "deep").mkdir(parents=True)
    (tmp_path / "text" / ".hidden").write_bytes(b"no")
    (tmp_path / "text" / "b.txt").write_bytes("Zwölf Boxkämpfer jagen Viktor.\n".encode() * 200)
    (tmp_path / "text" / "deep" / "a.txt").write_bytes("いろはにほへと".encode() * 300)
    both = read_text(str(tmp_path / "text"))
    assert both == read_text(str(tmp_path / "text" / "b.txt")) + b"\n" + read_text(str(tmp_path / "text" / "deep"))
    assert both == read_text(str(tmp_path / "text" / "**" / "*.txt"))
    genome = {name: gene.middle() for name, gene in module.SPACE(module.Options(size="2x64x64x512")).genes.items()}
    assert train(genome, data=str(tmp_path / "text"))[0]["val_loss"] < 5.5
    prints = {
        module.fingerprint(module.Options(data=str(path), size="2x64x64x512"))
        for path in (tmp_path / "text", tmp_path / "text/b.txt")
    }
    assert len(prints | {module.fingerprint(module.Options(size="2x64x64x512"))}) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in prints)


@pytest.mark.parametrize("vocab", [256, 512])
def test_a_training_on_a_mapped_text_is_the_same(
    train: Callable[..., Any], default: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vocab: int
) -> None:
    found = []
    for name, limit in (("plain", 1 << 30), ("mapped", 0)):
        monkeypatch.setattr(corpus, "IN_MEMORY", {"bytes": limit, "pairs": limit})
        (tmp_path / name).write_bytes(read_text("")[:50_000])
        found.append(without_clock(train(default, data=str(tmp_path / name), vocab=vocab)[0]))
    assert found[0] == found[1]


def test_bad_text_says_what_and_what_next(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_bytes(b"x" * 5159)
    (tmp_path / "enough.txt").write_bytes(b"x" * 5160)
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("missing.txt", "there is no such file or folder"),
        ("*.md", "there is no such file or folder"),
        ("folder", "holds no files"),
        ("empty.txt", "is empty: expected at least 5160"),
        ("short.txt", "holds 5159 bytes: expected at least 5160 .*smaller -o context"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            module.fingerprint(module.Options(data=str(tmp_path / name), size="2x64x64x512"))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    module.fingerprint(module.Options(data=str(tmp_path / "enough.txt"), size="2x64x64x512"))
    with pytest.raises(OptionError, match=r"vocab=300: the text to train on has .* expected more than 256"):
        module.fingerprint(module.Options(data=str(tmp_path / "enough.txt"), size="2x64x64x512", vocab=300))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flops": 1e9, "tokens": 5}, "-o flops and -o tokens"),
        ({"flops": 0.0}, "flops=0"),
        ({"tokens": -5}, "tokens=-5"),
        ({"seconds": math.nan}, "seconds=nan"),
        ({"eval_tokens": 0}, "eval_tokens=0"),
        ({"clip": 0.0}, "clip=0"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio=2"),
        ({"beta2": 1.0}, "beta2=1"),
        ({"context": 1}, "context=1 is not allowed: expected a whole number, 2 or more"),
        ({"context": 10_000}, "context=10000 is not allowed: expected a whole number, 2 to 2048"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"vocab": 255}, "vocab=255"),
        ({"window": 0}, "window=0"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"gap_patience": 2}, "needs -o weight_decay_end"),
        ({"patience": 1, "schedule": "sgdr", "evaluations": 20}, "patience=1: expected more than the 2 evaluations"),
        ({"extend_from": 64}, "extend_from=64: expected less than -o context"),
        ({"extend_from": 64, "context": 64}, "extend_from=64"),
        ({"extend_from": 64, "context": 128, "patience": 1}, "-o patience"),
        ({"cycle": 0.0}, "cycle=0"),
    ],
)
def test_bad_options_are_found_before_anything_is_trained(
    module: ModuleType, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        module.SPACE(module.Options(size="2x64x64x512", **given))


# ---------------------------------------------------------------- the model, to keep


def test_an_exported_model_keeps_its_tokens_and_its_average(
    module: ModuleType, default: dict[str, Any], tmp_path: Path
) -> None:
    options = module.Options(size="2x64x64x512", eval_tokens=1024, vocab=300, ema=0.9, tokens=4096)
    module.export(default, Context(seed=1, test=True, folder=tmp_path / "trial"), tmp_path / "model", options)
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"tokenizer.json", "averaged"}
    models = [GPT.load(tmp_path / name) for name in ("model", "model/averaged")]
    assert all(model.config.vocab_size == 300 for model in models)
    assert evo_tune.load_model(tmp_path / "model").generate("The ", 5).startswith("The ")
    last, average = (model.embedding.weight for model in models)
    assert (last != average).any()


def test_an_export_trains_up_to_the_budget(module: ModuleType, default: dict[str, Any], tmp_path: Path) -> None:
    folder, context = tmp_path / "best model", Context(seed=1, test=True, folder=tmp_path / "trial")
    metrics = module.export(default, context, folder, module.Options(size="2x64x64x512", eval_tokens=1024, tokens=4096))
    assert metrics["tokens"] == pytest.approx(4096, abs=32)  # to a window
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


# ---------------------------------------------------------------- the documentation

DOCUMENTED = [
    shlex.split(line, comments=True)[1:]
    for line in (Path(__file__).parents[2] / "docs" / "evaluators.md").read_text(encoding="utf-8").splitlines()
    if re.match("evo-tune (evaluate|run) language_model -o", line)
]


@pytest.mark.parametrize("words", DOCUMENTED, ids=" ".join)
def test_what_the_documentation_types_works(
    evaluator: Evaluator, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "run":  # all but the training
        monkeypatch.setattr(Search, "run", lambda search, watch, **more: search.close())
        assert cli.main(words, standalone_mode=False) == 1  # nothing was trained
        assert len([path for path in (tmp_path / "populations").iterdir() if path.is_dir()]) == 1
        return
    given = dict(word.split("=") for word in words[3::2])
    options = evaluator.bind({**given, "size": "2x64x64x512", "tokens": "4096", "eval_tokens": "1024"})
    metrics = options.evaluate(options.space.default(), Context(folder=tmp_path))
    assert metrics["val_bpb"] < 8
    assert set(metrics) <= set(evaluator.metrics)


def test_the_optimizer_of_a_tiny_genome_is_the_one_that_trains(tmp_path: Path) -> None:
    evaluator = find_evaluator("bundled:language_model")
    options = evaluator.bind({"size": "tiny", "tokens": 2048, "eval_tokens": 512}).for_run(rungs=False)
    genome = options.space.default()
    losses = {
        options.evaluate({**genome, "optimizer": name}, Context(seed=1, folder=tmp_path / name))["val_loss"]
        for name in ("adamw", "muon")
    }
    assert len(losses) == 2


def test_options_that_earlier_versions_had_are_accepted_at_their_defaults() -> None:
    plugin = find_evaluator("bundled:language_model")
    assert plugin.bind({"grow_from": None, "grow_share": 0.5}).options == plugin.bind({}).options
    with pytest.raises(OptionError, match="no option 'grow_from'"):
        plugin.bind({"grow_from": "1x32"})
