"""Compiled blocks: how many variants there are, that they train as without compiling, and masks of flex_attention.

A CPU has no backward pass of flex_attention, so a training with its masks is counted with plain attention under them.
Variants are counted with torch's tracing alone: its backend "inductor" would compile the same graphs for minutes.
"""

from __future__ import annotations

import copy
import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, Precision, TextClassifier, Trainer, TrainingWindows, evaluate
from evo_tune.training.extension import extend_trainer
from evo_tune.training.models import block as block_module
from evo_tune.training.models.block import (
    attend,
    attend_by_flex,
    attend_in_window,
    chunk_mask,
    document_mask,
    flex_document_mask,
    flex_window_mask,
)
from evo_tune.training.models.dropout import attach_noise
from evo_tune.training.recipe import GPTConfig, TextConfig
from evo_tune.training.stepping import compiling
from evo_tune.training.stepping.compiling import blocks_of, compile_blocks, kind_of

Variants = Counter[str]

# Of torch's tracing: it hides the first from users only, and users are not shown the second.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

# All parts of a block in one model of two kinds of block.
MANY_OPTIONS: dict[str, Any] = {
    "window": 3,
    "value_embeddings": True,
    "dropout": 0.1,
    "position": "rope",
    "kv_heads": 1,
    "qk_norm": True,
}
BLOCK_OPTIONS: dict[str, tuple[Any, ...]] = {
    "position": ("learned", "rope"),
    "kv_heads": (None, 1),
    "qk_norm": (False, True),
    "window": (None, 3),
    "boundary": (None, 3),
    "value_embeddings": (False, True),
    "dropout": (0.0, 0.1),
    "recompute": (None, 2),
    "precision": ("fp32", "bf16"),
    "flex": (False, True),
}


def rows_with_all_pairs() -> list[dict[str, Any]]:
    """Return few combinations of block options that have each pair of two options' values at least once."""
    rng, names = random.Random(0), list(BLOCK_OPTIONS)
    missing = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in BLOCK_OPTIONS[a]
        for y in BLOCK_OPTIONS[b]
    }
    rows = []
    while missing:
        draws = ({name: rng.choice(values) for name, values in BLOCK_OPTIONS.items()} for _ in range(300))
        row = max(draws, key=lambda draw: len(missing & {*itertools.combinations(draw.items(), 2)}))
        missing -= {*itertools.combinations(row.items(), 2)}
        rows.append(row)
    return rows


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> Iterator[Variants]:
    """Count the graphs that torch gives to its backend, by kind of block; they are run as they are."""
    counts, compile_function = Variants(), torch.compile

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            counts[function.__name__] += 1
            return graph.forward

        return compile_function(function, backend=backend)

    monkeypatch.setattr(torch, "compile", counted)
    yield counts
    torch.compiler.reset()


def attend_under_block_mask(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float | None = None) -> Tensor:
    """Return the result of `attend_by_flex` by plain attention, which a CPU can train."""
    positions = torch.arange(q.shape[2])
    samples = torch.arange(q.shape[0])[:, None, None, None]
    visible = mask.mask_mod(samples, 0, positions[:, None], positions)
    visible = visible | (mask.kv_num_blocks[..., :1, None] < 0)  # the tiles are inputs of the graph too
    return attend(q, k, v, visible, causal=False, scale=scale)


def train_in_all_shapes(make_trainer: Callable[..., Trainer], text: Tensor, **options: Any) -> tuple[Trainer, Trainer]:
    """Train two contexts with passes of several samples and of one, and evaluate each with a last batch of one."""
    precision, recompute = options.pop("precision", "fp32"), options.pop("recompute", None)
    config = {"batch": 5, "micro_batch": 2, "width": 32, "heads": 2, **options}
    plain = make_trainer(recipe={"precision": Precision(name=precision)}, **config)
    plain.model.recompute = recompute
    short = Trainer(plain.model, plain.source, plain.recipe, seed=3, compiled=True)

    def evaluate_at(trainer: Trainer, context: int) -> None:
        windows = text[: 5 * context].view(5, context).long()
        evaluate(trainer.model, (windows, windows), batch=2, **trainer.evaluation)

    short.run(1)
    evaluate_at(short, 8)
    short.run(2)
    evaluate_at(short, 8)
    source = TrainingWindows(text, context=16, batch=5, total=100, seed=3, micro_batch=2)
    long = extend_trainer(short, source, 16)
    long.run(4)
    evaluate_at(long, 16)
    evaluate_at(long, 8)  # the gain of the longer context
    return short, long


def check_variants(variants: Variants, trainers: tuple[Trainer, Trainer]) -> None:
    """Check that a kind has a variant for passes, one for a pass of one sample, and one for each evaluated context."""
    short, long = (len({kind_of(block) for block in blocks_of(trainer.model)}) for trainer in trainers)
    assert sorted(variants.values()) == short * [3] + long * [4]


def test_variants_of_a_training_in_all_shapes(
    variants: Variants, make_trainer: Callable[..., Trainer], text: Tensor
) -> None:
    check_variants(variants, train_in_all_shapes(make_trainer, text, **MANY_OPTIONS, recompute=2))
    assert len(variants) == 4


@pytest.mark.slow
@pytest.mark.parametrize("options", rows_with_all_pairs(), ids=lambda row: "-".join(map(str, row.values())))
def test_variants_of_each_pair_of_block_options(
    options: dict[str, Any],
    variants: Variants,
    make_trainer: Callable[..., Trainer],
    text: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "supports_flex", lambda model, flex=options["flex"]: flex)
    monkeypatch.setattr(block_module, "attend_by_flex", attend_under_block_mask)
    config = {name: value for name, value in options.items() if name != "flex"}
    check_variants(variants, train_in_all_shapes(make_trainer, text, **config))


def test_masks_of_flex_attention_need_no_variant_per_step(
    variants: Variants, make_trainer: Callable[..., Trainer], text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "supports_flex", lambda model: True)
    monkeypatch.setattr(block_module, "attend_by_flex", attend_under_block_mask)
    options = {"boundary": 3, "window": 3, "depth": 1}
    check_variants(variants, train_in_all_shapes(make_trainer, text, **options))


def test_many_models_in_a_process_are_compiled(variants: Variants) -> None:
    for width in range(2, 24, 2):  # torch runs the ninth variant of a function eagerly
        model = GPT(GPTConfig(context=8, depth=1, width=width, heads=1))
        compile_blocks(model)
        with torch.no_grad():
            model(torch.zeros(2, 8, dtype=torch.long))
    assert list(variants.values()) == 11 * [1]


def test_blocks_that_drop_different_shares_and_texts_of_any_length_share_a_variant(variants: Variants) -> None:
    model = TextClassifier(TextConfig(outputs=2, depth=4, width=8, heads=2, length=64, buckets=9, drop_path=0.3))
    noise = attach_noise(model, 1)
    assert noise is not None
    compile_blocks(model)
    for batch, length in ((4, 50), (3, 64), (2, 57)):  # above 48: a CPU has other attention up to there
        noise.begin(batch, range(batch), torch.device("cpu"))
        model(torch.ones(batch, length, dtype=torch.long)).sum().backward()
    assert list(variants.values()) == [1, 1]  # the first block drops no branch


def test_compiled_blocks_train_and_resume_as_others_do(
    variants: Variants, make_trainer: Callable[..., Trainer]
) -> None:
    options = {**MANY_OPTIONS, "batch": 5, "width": 32, "depth": 1, "recipe": {"ema": 0.9}}
    plain = make_trainer(**options)
    whole, split, resumed = (
        Trainer(built.model, built.source, built.recipe, seed=3, compiled=True)
        for built in (make_trainer(**options, micro_batch=micro) for micro in (None, 2, None))
    )
    plain.run(4)
    whole.run(2)
    resumed.restore(copy.deepcopy(whole.state()))
    for trainer in (whole, resumed):
        trainer.run(4)
    split.run(4)
    assert variants
    for weights in zip(*(trainer.model.parameters() for trainer in (plain, split, whole, resumed)), strict=True):
        expected, in_passes, at_once, continued = weights
        assert torch.equal(at_once, continued)
        assert torch.allclose(at_once, expected, atol=1e-6)
        assert torch.allclose(in_passes, expected, atol=1e-6)


def test_each_kind_of_block_is_compiled_and_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(GPTConfig(context=16, depth=3, width=16, heads=2, value_embeddings=True, ngrams=5))
    names, compiled = list(model.state_dict()), []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    compile_blocks(model)
    assert len(compiled) == 2
    assert len({function.__code__ for function in compiled}) == 2
    assert blocks_of(model) == list(model.blocks)
    assert list(model.state_dict()) == names
    assert not model.flex  # on a CPU


def test_a_trainer_compiles_the_model_and_not_its_average(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_trainer(recipe={"ema": 0.9})
    calls = []

    def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda block, *inputs: calls.append(block) or function(block, *inputs)

    monkeypatch.setattr(torch, "compile", uncompiled)
    trainer = Trainer(plain.model, plain.source, plain.recipe, compiled=True)
    trainer.run(1)
    assert calls == list(trainer.model.blocks)  # type: ignore[arg-type]
    assert trainer.averaged is not None
    trainer.averaged.module(torch.zeros(1, 8, dtype=torch.long))
    assert len(calls) == 2


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_flex_sees_what_a_window_sees(kv_heads: int) -> None:
    q, k, v = queries_keys_values(kv_heads)
    expected = attend_in_window(q, k, v, chunk_mask(16, 7))
    found = attend_by_flex(q, k, v, flex_window_mask(40, 7, torch.device("cpu")))
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [7, 40])
def test_flex_sees_the_tokens_of_a_document(window: int) -> None:
    q, k, v = queries_keys_values(2)
    tokens = torch.randint(0, 6, (2, 40), generator=torch.Generator().manual_seed(2))
    expected = attend(q, k, v, document_mask(tokens, 0, window), causal=False)
    found = attend_by_flex(q, k, v, flex_document_mask(tokens, 0, window))
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def queries_keys_values(kv_heads: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    shapes = [(2, heads, 40, 16) for heads in (4, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]


def test_tf32_is_a_gpus_and_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with Precision(name="tf32").products():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with Precision(name="fp32").products():
        assert torch.get_float32_matmul_precision() == before
    with pytest.raises(RecipeError, match="tf32"):
        Precision(name="tf32").check_device(torch.device("cpu"))


@pytest.mark.parametrize("place", ["_HEADER_DIR", "cache_dir()"])
def test_headers_of_compiled_code_are_in_a_folder_of_the_user(tmp_path: Path, place: str) -> None:
    """torch has them below the temporary folder, under a name that another user can make before.

    The temporary folder of the process that trains stays what it was.
    """
    code = (
        "import torch; from evo_tune.training import GPT; from evo_tune.training.recipe import GPTConfig\n"
        "from evo_tune.training.stepping.compiling import compile_blocks\n"
        "compile_blocks(GPT(GPTConfig(context=8, depth=1, width=8, heads=1)))\n"
        f"from torch._inductor import codecache; print(codecache.{place})\n"
        "import os, tempfile; assert tempfile.gettempdir() == os.environ['TMPDIR']"
    )
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path / "temporary")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    told = subprocess.run([sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE, check=True)
    assert Path(told.stdout.strip()).is_relative_to(tmp_path / "evo-tune" / "compiled")
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("named", [False, True])
def test_compiled_code_is_kept_in_a_folder_of_the_user(tmp_path: Path, named: bool) -> None:
    """An optimizer already imports the compiler, which makes the folder."""
    code = (
        "import os, torch; from evo_tune.training import GPT; torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]);"
        "print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    )
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path / "temporary")}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    if named:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "own")
    told = subprocess.run([sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE, check=True)
    assert told.stdout.strip() == str(tmp_path / ("own" if named else "evo-tune/compiled"))
    assert not list((tmp_path / "temporary").iterdir())
