"""The bundled fine-tuning: its space, its bases, what it trains and what it leaves alone, and what it writes."""

import inspect
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

import evo_tune
from evo_tune import Context, SearchSpace, training
from evo_tune.errors import OptionError, RecipeError, UsageError
from evo_tune.plugins.cost import Cost
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import GPT, TuningTraining, evaluate, load_pretrained, load_tuning_text, prepare_base
from evo_tune.training import small_base_folder as train_small_base
from evo_tune.training.prediction.language import LanguageModel
from evo_tune.training.recipe import GPTConfig
from evo_tune.training.recipe import tuning as small_base
from evo_tune.training.recipe.models.base import read_base
from evo_tune.training.tuning.weights import LowRank
from tests.hugging_face import make_folder

pytestmark = pytest.mark.extended

METHODS = ("lora", "dora", "adapter")
PAIRS = [*(("gpt", method) for method in METHODS), ("llama", "lora"), ("gpt2", "dora"), ("", "adapter")]
EVERY_PAIR = pytest.mark.parametrize(
    ("base", "method"),
    [
        pytest.param(base, method, marks=[] if (base, method) in PAIRS else pytest.mark.proof)
        for base in ("", "gpt", "llama", "gpt2")
        for method in METHODS
    ],
    indirect=["base"],
)
"""Bases and methods, each of which is in the suite; that each goes with each other is a proof."""

SMALL = {"context": 32, "depth": 2, "width": 32, "heads": 2, "init": "fan_in"}
"""A small base that is made at once, in the place of the one that is worth tuning."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def evaluator(cache: Path) -> Iterator[Evaluator]:
    found = find_evaluator("fine_tuning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr(small_base, "SMALL", {**small_base.SMALL, "model": SMALL, "windows": 80})
        yield found


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt")
    GPT(GPTConfig(context=32, depth=2, width=16, heads=2, dropout=0.1), seed=3).save(folder)
    return folder


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make_folder(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "gpt2")}


@pytest.fixture(params=["", "gpt", "llama", "gpt2"])
def base(request: pytest.FixtureRequest) -> str:
    """The small base, one of our own, or one of Hugging Face."""
    if request.param in ("", "gpt"):
        return str(request.getfixturevalue("gpt")) if request.param else ""
    return str(request.getfixturevalue("hugging_face")[request.param])


@pytest.fixture
def train(evaluator: Evaluator, tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Train with a tiny budget; keywords in capitals go to the context, lists of genes to the genome."""

    def run(genes: dict[str, Any] | None = None, **given: Any) -> dict[str, float]:
        context = {name.lower(): given.pop(name) for name in list(given) if name.isupper()}
        options = evaluator.bind(
            {"eval_tokens": 256, "precision": "fp32", **({} if "flops" in given else {"tokens": 1024}), **given}
        )
        genome = {**options.space.default(), "lr": 1e-2, **(genes or {})}
        made = Context(**{"seed": 1, "folder": tmp_path / "trial", **context})
        metrics: dict[str, float] = options.evaluate(genome, made)
        assert len(made.curve) >= 1
        return metrics

    return run


def space_of(evaluator: Evaluator, **given: Any) -> SearchSpace:
    return evaluator.bind(given).space


def estimate_of(evaluator: Evaluator, genome: dict[str, Any], **given: Any) -> dict[str, float]:
    return evaluator.bind(given).estimate(genome)


def fingerprint_of(evaluator: Evaluator, **given: Any) -> str:
    return evaluator.bind(given).fingerprint()


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("tokens_per_second", "resumed_step")}


# ---------------------------------------------------------------- the space


@pytest.mark.parametrize("method", METHODS)
def test_every_genome_is_valid_and_repair_is_settled(evaluator: Evaluator, method: str) -> None:
    space, rng = space_of(evaluator, method=method), np.random.default_rng(1)
    for genome in [space.sample(rng) for _ in range(50)]:
        assert estimate_of(evaluator, genome, method=method)["trainable_params"] > 0
        assert space.snap(space.encode(genome)) == genome


def test_genes_that_a_method_does_not_look_at_make_no_other_genome(evaluator: Evaluator) -> None:
    own = space_of(evaluator)
    assert set(own.genes) == {"lr", "batch", "warmup", "rank", "alpha_ratio", "dropout", "targets"}
    space = SearchSpace(own.repair, None, **{**own.genes, **own.optional})
    lora, adapter = ({**space.default(), "method": method} for method in ("lora", "adapter"))
    assert space.check({**lora, "bottleneck": 64}) == space.check(lora)
    assert space.check({**adapter, "rank": 2, "targets": "qv", "dropout": 0.0}) == space.check(adapter)
    assert space.check({**adapter, "bottleneck": 64}) != space.check(adapter)
    assert space.check({**lora, "rank": 2}) != space.check(lora)
    sizes = {m: estimate_of(evaluator, space.check({**lora, "method": m}))["trainable_params"] for m in METHODS}
    assert len(set(sizes.values())) == 3
    assert sizes["lora"] < sizes["dora"]


def test_the_learning_rate_and_the_rank_suit_the_base(evaluator: Evaluator, gpt: Path, tmp_path: Path) -> None:
    assert max(space_of(evaluator, base=str(gpt)).genes["rank"].values) == 16
    assert space_of(evaluator, base=str(gpt)).genes["lr"].high == 2e-2
    GPT(GPTConfig(context=8, depth=1, width=256, heads=2, vocab_size=16)).save(tmp_path)
    large = space_of(evaluator, base=str(tmp_path))
    assert large.genes["lr"].high == 2e-3
    assert large.default()["rank"] < space_of(evaluator).default()["rank"]


def test_each_layer_with_added_weights_and_dropout_take_time(evaluator: Evaluator, gpt: Path) -> None:
    bound = evaluator.bind({"base": str(gpt)})
    least = {**bound.space.default(), "targets": "qv", "dropout": 0.0, "rank": 2}
    plain = bound.work(least)
    wide = {"targets": "all-linear"}
    for more, kind in ((wide, "layers"), (wide, "added"), ({"dropout": 0.1}, "dropped"), ({"rank": 4}, "weights")):
        assert bound.work({**least, **more})[kind] > plain[kind]
    cost = Cost(dict.fromkeys(plain, 1e-9))
    assert cost.step(bound.work({**least, "dropout": 0.1})) > cost.step(plain)


def test_named_layers_take_the_place_of_the_gene(evaluator: Evaluator, gpt: Path) -> None:
    given = {"base": str(gpt), "targets": "*.0.ffn.*"}
    space = space_of(evaluator, **given)
    assert "targets" not in space.genes
    assert estimate_of(evaluator, {**space.default(), "rank": 2}, **given)["trainable_params"] == 2 * (16 + 64) * 2


@pytest.mark.parametrize(
    "gene",
    [{"rank": 17}, {"rank": 0}, {"batch": 0}, {"lr": 2.0}, {"dropout": 1.0}, {"warmup": 0.6}, {"alpha_ratio": 0.0}],
)
def test_genes_of_the_users_own_are_checked_before_a_trial(
    evaluator: Evaluator, gpt: Path, gene: dict[str, Any]
) -> None:
    genome = space_of(evaluator, base=str(gpt)).default()
    with pytest.raises(RecipeError, match=next(iter(gene))):
        estimate_of(evaluator, {**genome, **gene}, base=str(gpt))


def test_before_a_training_torch_is_not_loaded(gpt: Path) -> None:
    code = (
        "import sys; from evo_tune.plugins.find import find_evaluator\n"
        "for base in ('', sys.argv[1]):\n"
        "    e = find_evaluator('fine_tuning'); o = e.bind({'base': base})\n"
        "    o.estimate(o.space.default()), o.fingerprint()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(gpt)], check=True)


# ---------------------------------------------------------------- the training


@pytest.mark.slow
@EVERY_PAIR
def test_what_was_estimated_is_what_is_trained_and_base_weights_are_the_same_to_the_bit(
    evaluator: Evaluator, base: str, method: str, tmp_path: Path
) -> None:
    options = evaluator.module.Options(base=base, method=method, tokens=1024, eval_tokens=512, precision="fp32")
    genome = {**space_of(evaluator, base=base, method=method).default(), "lr": 1e-2}
    training_run, metrics = training.train(
        evaluator.module._task(genome, options), Context(seed=1, folder=tmp_path), TuningTraining
    )
    trainer = training_run.trainer
    known = estimate_of(evaluator, genome, base=base, method=method, tokens=1024)
    assert known.pop("gpu_memory") > 0.0
    assert {name: metrics[name] for name in known} == known
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == metrics["trainable_params"]
    assert all(p.any() for p in trained.values())
    after = trainer.model.state_dict()
    before = load_pretrained(prepare_base(options)).state_dict()
    assert all(torch.equal(weights, after[name]) for name, weights in before.items())
    assert set(metrics) == set(evaluator.metrics) - {"val_loss_ema", "mfu", "gpu_memory"}


@pytest.mark.parametrize("method", METHODS)
def test_tuning_helps_and_says_by_how_much(train: Callable[..., dict[str, float]], method: str, tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(Path(inspect.__file__).read_bytes())  # unlike anything that the base has seen
    metrics = train(method=method, tokens=4096, eval_tokens=512, data=str(tmp_path / "code"))
    assert metrics["val_loss"] < metrics["base_val_loss"] - 0.005
    assert metrics["val_bpb"] == pytest.approx(metrics["val_loss"] / math.log(2))


@pytest.mark.slow
def test_bits_are_counted_per_byte_whatever_the_tokens(
    train: Callable[..., dict[str, float]], hugging_face: dict[str, Path]
) -> None:
    metrics = train(base=str(hugging_face["llama"]))
    assert metrics["base_val_loss"] == pytest.approx(math.log(270), abs=0.5)  # it knows nothing
    assert 0.5 < metrics["val_bpb"] / (metrics["val_loss"] / math.log(2)) < 1  # tokens are longer than a byte


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_result_and_a_resumed_training_is_a_straight_one(
    train: Callable[..., dict[str, float]], method: str, gpt: Path, tmp_path: Path
) -> None:
    given = {"base": str(gpt), "method": method, "schedule": "wsd", "micro_batch": 3}
    straight = without_clock(train(**given))
    if method == "dora":
        assert without_clock(train(**given)) == straight
        assert without_clock(train(SEED=2, **given)) != straight
        assert without_clock(train(RESUME_FOLDER=tmp_path / "nowhere", **given)) == straight
    part = train(BUDGET=0.25, FOLDER=tmp_path / "part", **given)
    assert part["steps"] < straight["steps"]
    rest = train(RESUME_FOLDER=tmp_path / "part", **given)
    assert rest["resumed_step"] == part["steps"]
    assert without_clock(rest) == straight
    saved = torch.load(tmp_path / "part" / "checkpoint.pt", weights_only=True)["trainer"]["model"]
    assert sum(weights.numel() for weights in saved.values()) == straight["trainable_params"]  # and not the base
    with pytest.raises(OptionError, match="train from scratch"):
        train({"lr": 2e-2}, RESUME_FOLDER=tmp_path / "part", **given)


@pytest.mark.slow
@EVERY_PAIR
def test_in_bf16_the_base_is_stored_in_half_and_what_is_trained_in_full(
    evaluator: Evaluator, base: str, method: str, tmp_path: Path
) -> None:
    options = {"base": base, "method": method, "tokens": 1024, "eval_tokens": 512}
    found = {}
    for precision in ("fp32", "bf16"):
        bound = evaluator.module.Options(**options, precision=precision)
        genome = {**space_of(evaluator, base=base, method=method).default(), "lr": 1e-2}
        run = Context(seed=2, folder=tmp_path)  # with 1, both training losses happen to be equal
        found[precision] = training.train(evaluator.module._task(genome, bound), run, TuningTraining)
    for precision, stored in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = found[precision][0].model
        frozen = [
            module.weight
            for module in model.modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding) and not module.weight.requires_grad
        ]
        assert {weight.dtype for weight in frozen} == {stored}
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    (_, full), (_, half) = found["fp32"], found["bf16"]
    for name in ("val_loss", "base_val_loss", "train_loss"):
        assert half[name] != full[name]
        assert half[name] == pytest.approx(full[name], rel=2e-3)
    assert (full["bf16"], half["bf16"]) == (0, 1)
    assert half["peak_memory"] < full["peak_memory"]


def test_what_was_tuned_in_bf16_is_exported_in_full_and_its_average_beside_it(
    evaluator: Evaluator, gpt: Path, tmp_path: Path
) -> None:
    metrics = exported(evaluator, tmp_path / "half", base=str(gpt), precision="bf16", ema=0.5)
    for folder, name in ((tmp_path / "half", "val_loss"), (tmp_path / "half" / "averaged", "val_loss_ema")):
        merged = load_pretrained(read_base(folder))
        assert {p.dtype for p in merged.parameters()} == {torch.float32}
        assert loss(merged, str(gpt)) == pytest.approx(metrics[name], rel=2e-3)
    assert metrics["val_loss_ema"] != metrics["val_loss"]


def test_passes_change_no_gradient_and_recomputation_no_bit(
    train: Callable[..., dict[str, float]], base: str, hugging_face: dict[str, Path]
) -> None:
    if not base or "llama" in base:  # those without dropout of their own
        genes, given = {"dropout": 0.0, "lr": 0.1}, {"base": base, "optimizer": "sgd"}
        whole, split = train(genes, **given), train(genes, **given, micro_batch=65)
        assert split["micro_batch"] < whole["micro_batch"]
        assert split["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-6)
    whole, again = train(base=base), train(base=base, recompute=1)  # with dropout
    assert again["val_loss"] == whole["val_loss"]
    assert again["peak_memory"] <= whole["peak_memory"]
    if "llama" in base:
        with pytest.raises(OptionError, match="all or none"):
            train(base=base, recompute=2)


def test_an_average_and_a_checkpoint_hold_no_frozen_weights(
    train: Callable[..., dict[str, float]], gpt: Path, tmp_path: Path
) -> None:
    part = train(base=str(gpt), ema=0.5, patience=9, BUDGET=0.5, FOLDER=tmp_path / "part")
    saved = torch.load(tmp_path / "part" / "checkpoint.pt", weights_only=True)
    for state in (saved["trainer"]["model"], saved["trainer"]["averaged"], saved["stopping"]["weights"]):
        count = sum(value.numel() for name, value in state.items() if name != "n_averaged")
        assert count == part["trainable_params"]


def test_a_budget_in_flops_gives_more_weights_less_text(train: Callable[..., dict[str, float]], gpt: Path) -> None:
    few, many = (train({"rank": rank}, base=str(gpt), flops=2e8) for rank in (2, 16))
    assert few["tokens"] > many["tokens"]
    for metrics in (few, many):
        assert metrics["flops"] == pytest.approx(2e8, rel=0.05)


# ---------------------------------------------------------------- the data


def test_a_fingerprint_tells_texts_and_bases_apart(
    evaluator: Evaluator, gpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_bytes(b"some text " * 200)
    copy = shutil.copytree(gpt, tmp_path / "copy")
    given = [{}, {"base": str(gpt)}, {"data": str(tmp_path / "text")}]
    prints = [fingerprint_of(evaluator, **one) for one in given]
    assert len(set(prints)) == 3
    assert fingerprint_of(evaluator, base=str(copy)) == prints[1]  # what is in it counts, not where it is
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert fingerprint_of(evaluator, base=str(copy)) != prints[1]
    monkeypatch.setattr(small_base, "SMALL", {**small_base.SMALL, "windows": 81})
    assert fingerprint_of(evaluator) != prints[0]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flops": 1e9, "tokens": 5}, "-o flops and -o tokens"),
        ({"flops": 0.0}, "flops=0"),
        ({"tokens": -5}, "tokens=-5"),
        ({"flops": math.nan}, "flops=nan"),
        ({"eval_tokens": 0}, "eval_tokens=0"),
        (
            {"schedule": "steep"},
            "schedule=steep: expected one of auto, cosine, linear, constant, wsd, multi_step, sgdr",
        ),
        ({"gamma": 0.0}, "gamma=0"),
        ({"seconds": 1.0, "ranks": 2}, "ranks and -o seconds"),
        ({"clip": 0.0}, "clip=0"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio=2"),
        ({"beta2": 1.0}, "beta2=1"),
        ({"context": 1}, "context=1: expected a whole number, 2 or more"),
        ({"context": 33}, "context=33"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"targets": "q_proj"}, r"targets='q_proj'.*blocks\.0\.attention\.qkv, blocks\.0\.attention\.out"),
        ({"method": "adapter", "targets": "q_proj"}, r"targets='q_proj'.*blocks\.1\.ffn\.out"),
        ({"base": "nowhere"}, r"base='nowhere'.*a folder with config\.json"),
    ],
)
def test_bad_options_are_found_before_anything_is_trained(
    evaluator: Evaluator, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        space_of(evaluator, **given)
    assert "\n" not in str(caught.value)


def test_bad_folders_are_found_before_anything_is_trained(evaluator: Evaluator, gpt: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(gpt, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    other = shutil.copytree(gpt, tmp_path / "other")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"width": 16', '"width": 32'))
    for folder, message in ((pickled, "pickles can run code"), (other, "weights, as its config"), (tmp_path, "config")):
        with pytest.raises(RecipeError, match=message):
            space_of(evaluator, base=str(folder))


def test_bad_text_says_what_and_what_next(evaluator: Evaluator, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"x" * 679)
    for name, message in (("missing.txt", "there is no such file or folder"), ("short.txt", "at least 680")):
        with pytest.raises(UsageError, match=message) as caught:
            fingerprint_of(evaluator, data=str(tmp_path / name))
        assert name in str(caught.value)
    (tmp_path / "short.txt").write_bytes(b"x" * 680)
    fingerprint_of(evaluator, data=str(tmp_path / "short.txt"))


# ---------------------------------------------------------------- the model, to keep


def exported(evaluator: Evaluator, folder: Path, **given: Any) -> dict[str, float]:
    options = evaluator.bind({"tokens": 2048, "eval_tokens": 512, "precision": "fp32", **given})
    genome = {**options.space.default(), "lr": 1e-2}
    metrics = options.export(genome, Context(seed=1, folder=folder.parent / "trial"), folder)
    notes = json.loads((folder / "fine_tuning.json").read_text(encoding="utf-8"))
    assert notes["genome"] == genome
    assert notes["metrics"] == metrics
    return metrics


def loss(model: torch.nn.Module, base: str) -> float:
    of = read_base(base or train_small_base())
    windows = load_tuning_text(of, "", of.window(None), 512).held_out_windows()
    return evaluate(model.eval(), windows).loss


def test_a_merged_model_is_one_of_its_base_s_kind(evaluator: Evaluator, base: str, tmp_path: Path) -> None:
    folder = tmp_path / "tuned model"
    metrics = exported(evaluator, folder, base=base)
    merged = load_pretrained(read_base(folder))
    assert loss(merged, base) == pytest.approx(metrics["val_loss"], abs=1e-5)
    assert not list(folder.glob("adapter*"))
    model = evo_tune.load_model(folder)
    assert isinstance(model, LanguageModel)
    assert model.generate("The ", 9, seed=1) == "".join(["The ", *model.stream("The ", 9, seed=1)])
    assert len(model.generate("The ", 9)) > 4


@pytest.mark.parametrize("given", [{"keep": "adapter", "method": "dora"}, {"method": "adapter"}])
@pytest.mark.parametrize("base", ["", "gpt2"], indirect=True)
def test_an_adapter_alone_goes_back_into_its_base(
    evaluator: Evaluator, base: str, given: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    metrics = exported(evaluator, folder, base=base, **given)
    assert not (folder / "model.safetensors").exists()
    assert (folder / "base").exists() == (not base)  # the cache is no place to point at
    model = evo_tune.load_model(folder, base=base or None)
    assert loss(model.network, base) == pytest.approx(metrics["val_loss"], abs=1e-6)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("ratio", [0.5, 4.0])
def test_low_rank_maps_are_multiplied_by_the_gene_alpha_ratio_at_any_rank(
    train: Callable[..., dict[str, float]], gpt: Path, rank: int, ratio: float
) -> None:
    products: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, LowRank):
            plain = torch.nn.functional.linear(torch.nn.functional.linear(given[0], module.a), module.b)
            products.append((output.detach().clone(), ratio * plain.detach()))

    hook = register_module_forward_hook(note)
    try:
        train({"rank": rank, "alpha_ratio": ratio, "dropout": 0.0}, base=str(gpt))
    finally:
        hook.remove()
    assert any(output.any() for output, _ in products)
    assert all(torch.allclose(output, expected, rtol=1e-5, atol=1e-7) for output, expected in products)
