"""The classifiers: their arithmetic, what their tokens see, what is dropped, and that they come back from disk."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evo_tune.errors import RecipeError
from evo_tune.training import (
    GPT,
    ConvNet,
    DropPath,
    Encoder,
    Forecaster,
    FTTransformer,
    TextClassifier,
    ViT,
    accumulate,
    model_outputs,
)
from evo_tune.training.optim.optimizer import decay_groups
from evo_tune.training.recipe import (
    Columns,
    ConvConfig,
    FTConfig,
    GPTConfig,
    PatchConfig,
    TextConfig,
    ViTConfig,
    encode_texts,
)
from evo_tune.training.recipe.models.encoder_config import EncoderConfig, nearest_divisor

SHAPE = {"outputs": 3, "depth": 2, "width": 16, "heads": 2, "ffn_mult": 1.5}

MODELS: dict[str, Encoder] = {
    "vit": ViT(ViTConfig(image_height=8, image_width=4, patch=2, **SHAPE)),
    "vit conv": ViT(ViTConfig(image_height=4, image_width=4, patch=4, stem="conv", **SHAPE)),
    "convolutions": ConvNet(ConvConfig(image_height=9, image_width=6, channels=2, **SHAPE)),
    "table": FTTransformer(FTConfig(numeric=3, categories=(4, 2), **SHAPE)),
    "numbers": FTTransformer(FTConfig(numeric=2, **SHAPE)),
    "categories": FTTransformer(FTConfig(numeric=0, categories=(5,), **SHAPE)),
    "words": TextClassifier(TextConfig(length=6, buckets=30, **SHAPE)),
    "bytes": TextClassifier(TextConfig(length=6, unit="bytes", **SHAPE)),
    "series": Forecaster(PatchConfig(context=11, patch=4, horizon=3, **SHAPE)),
    "series smoothing": Forecaster(PatchConfig(context=11, patch=4, horizon=3, smoothing=True, **SHAPE)),
    "series past": Forecaster(PatchConfig(context=11, patch=4, horizon=3, past=2, **SHAPE)),
    "series known": Forecaster(PatchConfig(context=11, patch=4, horizon=3, past=1, known=3, **SHAPE)),
}


def inputs_of(model: Encoder, count: int = 5) -> torch.Tensor:
    rng, config = torch.Generator().manual_seed(1), model.config
    if isinstance(config, ViTConfig | ConvConfig):
        return torch.rand(count, config.channels, config.image_height, config.image_width, generator=rng)
    if isinstance(config, PatchConfig):
        if config.past or config.known:
            values = config.window_values // (1 + config.past + config.known)
            return torch.randn(count, values, 1 + config.past + config.known, generator=rng)
        return torch.randn(count, config.window_values, generator=rng)
    if isinstance(config, TextConfig):
        return torch.randint(1, config.vocabulary + 1, (count, config.length), generator=rng, dtype=torch.int32)
    numbers = torch.randn(count, config.numeric, generator=rng)
    codes = [torch.randint(0, number + 1, (count, 1), generator=rng).float() for number in config.categories]
    return torch.cat([numbers, *codes], 1)


def shaken(model: Encoder) -> Encoder:
    """Return a copy of a model whose every weight is drawn at random: fresh ones have blocks that do nothing."""
    copy = type(model)(model.config)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in copy.parameters():
            weight.normal_(0.0, 0.3, generator=rng)
    return copy.eval()


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_flops_are_what_torch_counts(name: str) -> None:
    model = MODELS[name]
    assert model.config.parameters == sum(weight.numel() for weight in model.parameters())
    inputs = inputs_of(model)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate(model, [(inputs, torch.zeros(len(inputs), dtype=torch.long))])
    config = model.config
    each = config.flops_per_sample(config.length) if isinstance(config, TextConfig) else config.flops_per_sample
    assert counter.get_total_flops() == each * len(inputs)


@pytest.mark.parametrize("name", MODELS)
def test_it_begins_knowing_nothing_and_the_seed_says_how(name: str) -> None:
    model, inputs = MODELS[name], inputs_of(MODELS[name])
    loss, _ = accumulate(type(model)(model.config), [(inputs, torch.arange(len(inputs)) % 3)])
    assert loss.item() == pytest.approx(math.log(3), abs=1e-6)
    state = torch.get_rng_state()
    one, same, other = (type(model)(model.config, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, same[key]) for key, tensor in one.items())
    assert not all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_and_gains_do_not_decay(name: str) -> None:
    decayed, _ = decay_groups(MODELS[name])
    kinds = {
        type(module) for module in MODELS[name].modules() for p in module.parameters(False) for d in decayed if p is d
    }
    assert all(issubclass(kind, torch.nn.Linear | torch.nn.Conv2d) for kind in kinds)


@pytest.mark.parametrize("name", [name for name in MODELS if "series" not in name])  # it has no labels
def test_saved_and_loaded_it_says_the_same(name: str, tmp_path: Path) -> None:
    model = shaken(MODELS[name])
    model.labels = ["a", "b", "c"]
    inputs = inputs_of(model)
    model.save(tmp_path, note=1)
    loaded = type(model).load(tmp_path)
    outputs = model_outputs(model, (inputs, inputs))
    assert torch.equal(model_outputs(loaded, (inputs, inputs)), outputs)
    assert loaded.labels == ["a", "b", "c"]
    assert torch.allclose(model_outputs(model, (inputs, inputs), batch=2), outputs, atol=1e-6)
    with pytest.raises(RecipeError, match="folder"):
        type(model).load(tmp_path / "nothing")


def test_every_token_of_an_encoder_sees_every_other_and_a_decoders_do_not() -> None:
    model = shaken(MODELS["vit"])
    x = torch.randn(1, 8, 16)
    before = model.encode(x)
    changed = (model.encode(torch.cat((x[:, :-1], -x[:, -1:]), 1)) - before).abs().amax(-1)
    assert (changed > 1e-4).all()
    gpt = GPT(GPTConfig(vocab_size=9, context=8, depth=2, width=16, heads=2)).eval()
    tokens = torch.arange(8)[None]
    assert torch.equal(gpt(tokens)[0, :-1], gpt(tokens.index_fill(1, torch.tensor([7]), 0))[0, :-1])


# ---------------------------------------------------------------- images


def test_patches_are_the_images_squares() -> None:
    """The linear layer over patches is a convolution whose stride is its size."""
    model = shaken(MODELS["vit"])
    images, patch = inputs_of(model), model.config.patch
    kernel = model.patches.weight.view(16, 3, patch, patch)
    expected = torch.nn.functional.conv2d(images, kernel, model.patches.bias, stride=patch).flatten(2).transpose(1, 2)
    seen = []
    model.patches.register_forward_hook(lambda module, args, output: seen.append(output))
    model(images)
    assert torch.allclose(seen[0], expected, atol=1e-5)


def test_pixel_values_may_have_any_scale() -> None:
    images = inputs_of(MODELS["vit"])
    logits = []
    for scaled in (images, images * 200 + 7):
        model = shaken(MODELS["vit"])
        model.standardise(scaled)
        logits.append(model(scaled))
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


def test_the_stem_norms_by_the_batch_in_training_only() -> None:
    model, images = shaken(MODELS["vit conv"]), inputs_of(MODELS["vit conv"])
    assert torch.allclose(model(images)[:1], model(images[:1]), atol=1e-6)
    model.train()
    assert not torch.allclose(model(images)[:2], model(images[:2]), atol=1e-3)


@given(share=st.floats(0.05, 0.9))
def test_drop_path_keeps_whole_samples_and_the_mean(share: float) -> None:
    layer = DropPath(share)
    torch.manual_seed(0)
    kept = layer(torch.ones(4000, 2, 3))
    assert torch.equal(kept.amax((1, 2)), kept.amin((1, 2)))  # a sample goes as a whole
    assert kept.mean().item() == pytest.approx(1.0, abs=0.25)
    assert kept.unique().tolist() == pytest.approx([0.0, 1.0 / (1.0 - share)], rel=1e-5)
    assert torch.equal(layer.eval()(kept), kept)


def test_drop_path_grows_with_depth() -> None:
    assert EncoderConfig(outputs=2, depth=3, drop_path=0.2).drop_paths == (0.0, 0.1, 0.2)
    assert EncoderConfig(outputs=2, depth=1, drop_path=0.2).drop_paths == (0.0,)


# ---------------------------------------------------------------- tables


def test_a_table_is_standardised_by_its_present_numbers() -> None:
    rows = torch.tensor([[1.0, 5.0], [3.0, 5.0], [math.nan, 5.0]])
    model = FTTransformer(FTConfig(numeric=2, **SHAPE))
    model.standardise(rows)
    assert model.mean.tolist() == [2.0, 5.0]
    assert model.deviation.tolist() == [1.0, 1.0]  # a constant column is only centred


def test_a_missing_number_is_the_mean_until_something_is_learnt() -> None:
    model = shaken(MODELS["numbers"])
    model.standardise(torch.tensor([[0.0, 1.0], [4.0, 3.0]]))
    row, gap = torch.tensor([[2.0, 1.5]]), torch.tensor([[math.nan, 1.5]])
    assert not torch.allclose(model(row), model(gap), atol=1e-3)
    with torch.no_grad():
        model.missing.weight.zero_()
    assert torch.equal(model(row), model(gap))


def test_columns_know_their_categories_and_what_is_none_of_them() -> None:
    table = {"age": [1.5, None], "colour": ["red", "blue"], "size": [2, 1]}
    columns = Columns.learn(table, ["age"], ["colour", "size"])
    assert columns.categorical == {"colour": ("blue", "red"), "size": ("1", "2")}
    assert msgspec.convert(asdict(columns), Columns) == columns
    other = {
        "colour": ["red", "green", None, math.nan],
        "age": [1, "2", None, math.nan],
        "size": [1, 3, 2, 2],
        "id": [0] * 4,
    }
    codes = columns.encode(other)
    assert np.array_equal(codes, [[1, 2, 1], [2, 0, 0], [math.nan, 0, 2], [math.nan, 0, 2]], equal_nan=True)
    with pytest.raises(RecipeError, match="without 'size'"):
        columns.encode({"age": [1], "colour": ["red"]})
    with pytest.raises(RecipeError, match=r"age=.*'old'.*expected numbers"):
        columns.encode({"age": ["old"], "colour": ["red"], "size": [1]})


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_padding_changes_nothing(kind: str) -> None:
    """A text has the same logits alone, among longer ones, and in a model that could see more."""
    config = TextConfig(unit=kind, length=12, **SHAPE)
    model = shaken(TextClassifier(config))
    texts = ["one", "a rather long text, too long for it", "two words", ""]
    together = model(torch.from_numpy(encode_texts(texts, config)))
    for text, expected in zip(texts, together, strict=True):
        alone = torch.from_numpy(encode_texts([text], config))
        assert torch.allclose(model(alone)[0], expected, atol=1e-5)
        assert torch.allclose(model(alone[:, : int((alone > 0).sum())])[0], expected, atol=1e-5)


def test_texts_are_cut_into_words_or_bytes() -> None:
    words = encode_texts(["Don't PANIC, don't", "", "a b c d e f g h i"], TextConfig(length=8, **SHAPE))
    assert (words > 0).sum(1).tolist() == [8, 1, 8]  # don ' t panic , don ' t
    assert words[0, :3].tolist() == words[0, 5:].tolist()
    assert words.max() <= 4096
    letters = encode_texts(["aé", "\x00"], TextConfig(length=3, unit="bytes", **SHAPE))
    assert letters.tolist() == [[98, 0xC3 + 1, 0xA9 + 1], [1, 0, 0]]


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        (EncoderConfig, {"outputs": 0}, "outputs"),
        (EncoderConfig, {"width": 30, "heads": 4}, "heads"),
        (EncoderConfig, {"drop_path": 1.0}, "drop_path"),
        (EncoderConfig, {"dropout": math.nan}, "dropout"),
        (EncoderConfig, {"depth": True}, "depth"),
        (ViTConfig, {"patch": 5}, "patch"),
        (ViTConfig, {"stem": "deep"}, "stem"),
        (FTConfig, {"numeric": 0}, "numeric"),
        (FTConfig, {"categories": (0,)}, "categories"),
        (TextConfig, {"length": 0}, "length"),
        (TextConfig, {"unit": "bpe"}, "unit"),
    ],
)
def test_shapes_out_of_bounds_are_refused(kind: type[EncoderConfig], fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        kind(**{"outputs": 2, **fields})
    assert caught.value.field == field


def test_unknown_fields_and_missing_labels_are_refused() -> None:
    with pytest.raises(RecipeError, match="patches"):
        ViTConfig.from_json({"outputs": 2, "patches": 3})
    with pytest.raises(RecipeError, match="labels"):
        ViT(ViTConfig(outputs=2), labels=["one"])


@given(width=st.integers(1, 200), heads=st.integers(1, 12), most=st.integers(1, 12))
def test_heads_go_to_the_nearest_divisor(width: int, heads: int, most: int) -> None:
    found = nearest_divisor(width, heads, most)
    assert width % found == 0
    assert 1 <= found <= most
    assert not any(width % n == 0 and abs(n - heads) < abs(found - heads) for n in range(1, most + 1))
