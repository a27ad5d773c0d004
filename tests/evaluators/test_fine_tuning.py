"""The bundled fine-tuning: its space, its bases, what it trains and what it leaves alone, and what it writes."""

import inspect
import json
import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from evo_tune import Context, SearchSpace
from evo_tune.errors import OptionError, RecipeError, StoreError, UsageError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import find_evaluator
from evo_tune.training import GPT, GPTConfig, load_pretrained, read_base
from tests.hugging_face import make_folder

METHODS = ("lora", "dora", "adapter")
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
        patch.setattr(found.module, "SMALL", {**found.module.SMALL, "model": SMALL, "windows": 80})
        yield found


@pytest.fixture(scope="module")
def module(evaluator: Evaluator) -> ModuleType:
    return evaluator.module


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt")
    GPT(GPTConfig(context=32, depth=2, width=16, heads=2, dropout=0.1, tied=False, bias=True), seed=3).save(folder)
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
        options = evaluator.bind({"eval_tokens": 512, **({} if "flops" in given else {"tokens": 1024}), **given})
        genome = {**evaluator.space(options).default(), "lr": 1e-2, **(genes or {})}
        made = Context(**{"seed": 1, "folder": tmp_path / "trial", **context})
        metrics: dict[str, float] = evaluator.evaluate(genome, made, options)
        assert len(made.curve) >= 1
        return metrics

    return run


def without_clock(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in ("tokens_per_second", "resumed_step")}


# ---------------------------------------------------------------- the space


@pytest.mark.parametrize("method", METHODS)
def test_every_genome_is_valid_and_repair_is_settled(module: ModuleType, method: str) -> None:
    space, rng = module.SPACE(method=method), np.random.default_rng(1)
    for genome in [space.sample(rng) for _ in range(50)]:
        assert module.estimate(genome, method=method)["trainable_params"] > 0
        assert space.snap(space.encode(genome)) == genome


def test_genes_that_a_method_does_not_look_at_make_no_other_genome(module: ModuleType) -> None:
    own = module.SPACE()
    assert set(own.genes) == {"lr", "batch", "warmup", "rank", "alpha_ratio", "dropout", "targets"}
    space = SearchSpace(own.repair, None, **{**own.genes, **own.optional})
    lora, adapter = ({**space.default(), "method": method} for method in ("lora", "adapter"))
    assert space.check({**lora, "bottleneck": 64}) == space.check(lora)
    assert space.check({**adapter, "rank": 2, "targets": "qv", "dropout": 0.0}) == space.check(adapter)
    assert space.check({**adapter, "bottleneck": 64}) != space.check(adapter)
    assert space.check({**lora, "rank": 2}) != space.check(lora)
    sizes = {m: module.estimate(space.check({**lora, "method": m}))["trainable_params"] for m in METHODS}
    assert len(set(sizes.values())) == 3
    assert sizes["lora"] < sizes["dora"]


def test_the_learning_rate_and_the_rank_suit_the_base(module: ModuleType, gpt: Path, tmp_path: Path) -> None:
    assert max(module.SPACE(base=str(gpt)).genes["rank"].values) == 16
    assert module.SPACE(base=str(gpt)).genes["lr"].high == 2e-2
    GPT(GPTConfig(context=8, depth=1, width=256, heads=2, vocab_size=16)).save(tmp_path)
    assert module.SPACE(base=str(tmp_path)).genes["lr"].high == 2e-3


def test_named_layers_take_the_place_of_the_gene(module: ModuleType, gpt: Path) -> None:
    given = {"base": str(gpt), "targets": "*.0.ffn.*"}
    space = module.SPACE(**given)
    assert "targets" not in space.genes
    assert module.estimate({**space.default(), "rank": 2}, **given)["trainable_params"] == 2 * (16 + 64) * 2


@pytest.mark.parametrize(
    "gene",
    [{"rank": 17}, {"rank": 0}, {"batch": 0}, {"lr": 2.0}, {"dropout": 1.0}, {"warmup": 0.6}, {"alpha_ratio": 0.0}],
)
def test_genes_of_the_users_own_are_checked_before_a_trial(module: ModuleType, gpt: Path, gene: dict[str, Any]) -> None:
    genome = module.SPACE(base=str(gpt)).default()
    with pytest.raises(RecipeError, match=next(iter(gene))):
        module.estimate({**genome, **gene}, base=str(gpt))


def test_before_a_training_torch_is_not_loaded(gpt: Path) -> None:
    code = (
        "import sys; from evo_tune.plugins.find import find_evaluator\n"
        "for base in ('', sys.argv[1]):\n"
        "    e = find_evaluator('fine_tuning'); o = e.bind({'base': base})\n"
        "    e.estimate(e.space(o).default(), o), e.fingerprint(o)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(gpt)], check=True)


# ---------------------------------------------------------------- the training


@pytest.mark.parametrize("method", METHODS)
def test_what_was_estimated_is_what_is_trained_and_base_weights_are_the_same_to_the_bit(
    module: ModuleType, base: str, method: str, tmp_path: Path
) -> None:
    options = module.options_from({"base": base, "method": method, "tokens": 1024, "eval_tokens": 512})
    genome = {**module.SPACE(base=base, method=method).default(), "lr": 1e-2}
    trainer, metrics = module._train(genome, Context(seed=1, folder=tmp_path), options)
    known = module.estimate(genome, base=base, method=method, tokens=1024)
    assert {name: metrics[name] for name in known} == known
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == metrics["trainable_params"]
    assert all(p.any() for p in trained.values())
    after = trainer.model.state_dict()
    before = load_pretrained(module._base(options)).state_dict()
    assert all(torch.equal(weights, after[name]) for name, weights in before.items())
    assert set(metrics) == set(module.METRICS)


@pytest.mark.parametrize("method", METHODS)
def test_tuning_helps_and_says_by_how_much(train: Callable[..., dict[str, float]], method: str, tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(Path(inspect.__file__).read_bytes())  # unlike anything that the base has seen
    metrics = train(method=method, tokens=4096, data=str(tmp_path / "code"))
    assert metrics["val_loss"] < metrics["base_val_loss"] - 0.005
    assert metrics["val_bpb"] == pytest.approx(metrics["val_loss"] / math.log(2))


def test_bits_are_counted_per_byte_whatever_the_tokens(
    train: Callable[..., dict[str, float]], hugging_face: dict[str, Path]
) -> None:
    metrics = train(base=str(hugging_face["llama"]))
    assert metrics["base_val_loss"] == pytest.approx(math.log(270), abs=0.5)  # it knows nothing
    assert 0.5 < metrics["val_bpb"] / (metrics["val_loss"] / math.log(2)) < 1  # tokens are longer than a byte


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_result_and_a_resumed_training_is_a_straight_one(
    train: Callable[..., dict[str, float]], method: str, gpt: Path, tmp_path: Path
) -> None:
    given = {"base": str(gpt), "method": method, "schedule": "wsd", "micro_batch": 3}
    straight = without_clock(train(**given))
    assert without_clock(train(**given)) == straight
    assert without_clock(train(SEED=2, **given)) != straight
    part = train(BUDGET=0.25, FOLDER=tmp_path / "part", **given)
    assert part["steps"] < straight["steps"]
    rest = train(RESUME_FOLDER=tmp_path / "part", **given)
    assert rest["resumed_step"] == part["steps"]
    assert without_clock(rest) == straight
    saved = torch.load(tmp_path / "part" / "checkpoint.pt", weights_only=True)["trainer"]["model"]
    assert sum(weights.numel() for weights in saved.values()) == straight["trainable_params"]  # and not the base
    with pytest.raises(OptionError, match="train from scratch"):
        train({"lr": 2e-2}, RESUME_FOLDER=tmp_path / "part", **given)
    assert without_clock(train(RESUME_FOLDER=tmp_path / "nowhere", **given)) == straight


def test_a_budget_in_flops_gives_more_weights_less_text(train: Callable[..., dict[str, float]], gpt: Path) -> None:
    few, many = (train({"rank": rank}, base=str(gpt), flops=2e8) for rank in (2, 16))
    assert few["tokens"] > many["tokens"]
    for metrics in (few, many):
        assert metrics["flops"] == pytest.approx(2e8, rel=0.05)


# ---------------------------------------------------------------- the small base


def test_whoever_comes_first_makes_the_small_base_and_the_others_wait(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made, make, found = [], module._train_small_base, []
    monkeypatch.setattr(module, "_train_small_base", lambda folder: (made.append(folder), make(folder)))
    threads = [threading.Thread(target=lambda: found.append(module._small_base())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(found)) == 1
    assert len(found) == 3
    hashed = read_base(found[0]).sha256()
    assert sorted(path.name for path in tmp_path.glob("evo-tune/*")) == [found[0].name, f"{found[0].name}.lock"]

    def damage(number: int) -> None:
        weights = found[0] / "model.safetensors"
        if number == 0:
            weights.write_bytes(weights.read_bytes()[:-1])
        elif number == 1:
            content = bytearray(weights.read_bytes())
            content[-2] ^= 1
            weights.write_bytes(content)
        elif number == 2:
            shutil.rmtree(found[0])
            (found[0].with_name(f"{found[0].name}.partial")).mkdir()  # whoever made it was killed
        else:
            (found[0] / "sha256").unlink()

    for number in range(4):
        damage(number)
        assert module._small_base() == found[0]
        assert len(made) == number + 2
        assert read_base(found[0]).sha256() == hashed  # to the bit


def test_a_cache_that_cannot_be_written_is_told_with_a_remedy(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"-o base=FOLDER, or set XDG_CACHE_HOME"):
        module._small_base()


def test_the_small_base_never_saw_the_text_that_it_is_tuned_to(module: ModuleType) -> None:
    tuning, other = module._built_in(tuning=True), module._built_in(tuning=False)
    assert min(len(tuning), len(other)) > 100_000
    training, held_out = module._text(module.options_from({}))
    assert training + held_out == tuning
    places = range(0, len(held_out) - 100, 100)
    assert not any(held_out[at : at + 100] in seen for at in places for seen in (training, other))


def test_a_fingerprint_tells_texts_and_bases_apart(
    module: ModuleType, gpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_bytes(b"some text " * 200)
    copy = shutil.copytree(gpt, tmp_path / "copy")
    given = [{}, {"base": str(gpt)}, {"data": str(tmp_path / "text")}]
    prints = [module.fingerprint(**one) for one in given]
    assert len(set(prints)) == 3
    assert module.fingerprint(base=str(copy)) == prints[1]  # what is in it counts, not where it is
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert module.fingerprint(base=str(copy)) != prints[1]
    monkeypatch.setattr(module, "SMALL", {**module.SMALL, "windows": 81})
    assert module.fingerprint() != prints[0]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flops": 1e9, "tokens": 5}, "-o tokens and -o flops"),
        ({"flops": 0.0}, "flops=0"),
        ({"tokens": -5}, "tokens=-5"),
        ({"flops": math.nan}, "flops=nan"),
        ({"eval_tokens": 0}, "eval_tokens=0"),
        ({"clip": 0.0}, "clip=0"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio=2"),
        ({"beta2": 1.0}, "beta2=1"),
        ({"context": 1}, "context=1: expected 2 to 32"),
        ({"context": 33}, "context=33"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"targets": "q_proj"}, r"targets='q_proj'.*blocks\.0\.attention\.qkv, blocks\.0\.attention\.out"),
        ({"method": "adapter", "targets": "q_proj"}, r"targets='q_proj'.*blocks\.1\.ffn\.out"),
        ({"base": "nowhere"}, r"base='nowhere'.*a folder with config\.json"),
    ],
)
def test_bad_options_are_found_before_anything_is_trained(
    module: ModuleType, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        module.SPACE(**given)
    assert "\n" not in str(caught.value)


def test_bad_folders_are_found_before_anything_is_trained(module: ModuleType, gpt: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(gpt, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    other = shutil.copytree(gpt, tmp_path / "other")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"width": 16', '"width": 32'))
    for folder, message in ((pickled, "pickles can run code"), (other, "weights, as its config"), (tmp_path, "config")):
        with pytest.raises(RecipeError, match=message):
            module.SPACE(base=str(folder))


def test_bad_text_says_what_and_what_next(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"x" * 339)
    for name, message in (("missing.txt", "is no file, folder or glob"), ("short.txt", "at least 340")):
        with pytest.raises(UsageError, match=message) as caught:
            module.fingerprint(data=str(tmp_path / name))
        assert name in str(caught.value)
    (tmp_path / "short.txt").write_bytes(b"x" * 340)
    module.fingerprint(data=str(tmp_path / "short.txt"))


# ---------------------------------------------------------------- the model, to keep


def exported(module: ModuleType, folder: Path, **given: Any) -> dict[str, float]:
    given = {"tokens": 2048, "eval_tokens": 512, **given}
    space = {name: given[name] for name in ("base", "method") if name in given}
    genome = {**module.SPACE(**space).default(), "lr": 1e-2}
    metrics: dict[str, float] = module.export(genome, Context(seed=1, folder=folder.parent / "trial"), folder, **given)
    notes = json.loads((folder / "fine_tuning.json").read_text(encoding="utf-8"))
    assert notes["genome"] == genome
    assert notes["metrics"] == metrics
    return metrics


def snippet(folder: Path) -> str:
    return "\n".join(re.findall(r"^    (.+)$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE))


def loss(module: ModuleType, model: torch.nn.Module, base: str) -> float:
    options = module.options_from({"base": base, "eval_tokens": 512})
    of = module._base(options)
    scored = module._scored(module._tokens(options, of.sha256())[1], 512, options, of)
    value: float = module._judge(model.eval(), scored, "cpu").loss
    return value


def test_a_merged_model_is_one_of_its_base_s_kind(
    module: ModuleType, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tuned model"
    metrics = exported(module, folder, base=base)
    merged = load_pretrained(read_base(folder))
    assert loss(module, merged, base) == pytest.approx(metrics["val_loss"], abs=1e-5)
    assert not list(folder.glob("adapter*"))
    exec(snippet(folder), {})
    assert capsys.readouterr().out.startswith("The ")


@pytest.mark.parametrize("given", [{"keep": "adapter", "method": "dora"}, {"method": "adapter"}])
@pytest.mark.parametrize("base", ["", "gpt2"], indirect=True)
def test_an_adapter_alone_goes_back_into_its_base(
    module: ModuleType, base: str, given: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    metrics = exported(module, folder, base=base, **given)
    assert not (folder / "model.safetensors").exists()
    assert (folder / "base").exists() == (not base)  # the cache is no place to point at
    scope: dict[str, Any] = {}
    exec(snippet(folder), scope)
    assert loss(module, scope["model"], base) == pytest.approx(metrics["val_loss"], abs=1e-6)
