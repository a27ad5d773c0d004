import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training import GPT
from evo_tune.training.models.block import rotate
from evo_tune.training.models.gpt import ngram_hashes, stream_tokens
from evo_tune.training.recipe import GPTConfig


@st.composite
def configs(draw: st.DrawFn) -> GPTConfig:
    heads, context = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    return GPTConfig(
        depth=draw(st.integers(1, 3)),
        heads=heads,
        width=heads * draw(st.sampled_from([2, 8, 12])),
        vocab_size=draw(st.integers(2, 40)),
        context=context,
        ffn_mult=draw(st.sampled_from([1.0, 8 / 3, 4.0])),
        bias=draw(st.booleans()),
        tied=draw(st.booleans()),
        init=draw(st.sampled_from(["normal", "fan_in"])),
        position=draw(st.sampled_from(["learned", "sinusoidal", "rope"])),
        window=draw(st.none() | st.integers(1, context)),
        window_pattern=draw(st.sampled_from(["S", "SL", "SSSL"])),
        kv_heads=draw(st.none() | st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])),
        qk_norm=draw(st.booleans()),
        ffn=draw(st.sampled_from(["gelu", "swiglu", "relu2", "reglu"])),
        norm=draw(st.sampled_from(["layernorm", "rmsnorm"])),
        softcap=draw(st.sampled_from([0.0, 15.0])),
        value_embeddings=draw(st.booleans()),
        residual_scaling=draw(st.booleans()),
        ngrams=draw(st.sampled_from([1, 4])),
        ngram_rows=draw(st.integers(1, 50)),
        boundary=draw(st.sampled_from([None, 0])),
    )


@settings(max_examples=40)
@given(config=configs())
def test_parameters_equal_the_formula(config: GPTConfig) -> None:
    model = GPT(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters
    tokens = torch.zeros(2, config.context, dtype=torch.long)
    assert model(tokens).shape == (2, config.context, config.vocab_size)
    assert GPTConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_gpt2_small_has_its_known_size() -> None:
    config = GPTConfig(vocab_size=50257, context=1024, depth=12, width=768, heads=12, bias=True)
    assert config.parameters == 124_439_808


@settings(max_examples=30)
@given(config=configs(), data=st.data())
def test_no_output_sees_a_later_token(config: GPTConfig, data: st.DataObject) -> None:
    model = GPT(config, seed=1).eval()
    tokens = torch.randint(0, config.vocab_size, (1, config.context), generator=torch.Generator().manual_seed(0))
    at = data.draw(st.integers(0, config.context - 1))
    other = tokens.clone()
    other[0, at] = (other[0, at] + 1) % config.vocab_size
    with torch.inference_mode():
        before, after = model(tokens), model(other)
    assert torch.equal(before[:, :at], after[:, :at])
    assert not torch.equal(before[:, at], after[:, at])


@pytest.mark.parametrize("init", ["normal", "fan_in"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_untrained_model_knows_nothing(init: str, tied: bool) -> None:
    model = GPT(GPTConfig(depth=4, width=128, heads=4, init=init, tied=tied), seed=2)
    tokens = torch.randint(0, 256, (16, 129), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(256), abs=0.06)


def test_weights_begin_as_said() -> None:
    model = GPT(GPTConfig(depth=8, width=128, heads=4, bias=True, tied=False), seed=0)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.all(parameter == (1.0 if name.endswith("weight") else 0.0))
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            std = 0.02 / 4 if name.endswith(".out.weight") else 0.02  # √(2 · 8) = 4
            assert float(parameter.detach().std()) == pytest.approx(std, rel=0.05), name
    fan_in = GPT(GPTConfig(depth=2, width=64, heads=4, init="fan_in")).state_dict()
    assert float(fan_in["blocks.0.ffn.up.weight"].std()) == pytest.approx(1 / 8, rel=0.05)
    assert not fan_in["blocks.1.ffn.out.weight"].any()
    assert not fan_in["blocks.1.attention.out.weight"].any()


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = GPT(GPTConfig(), seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)  # no other randomness is used up
    torch.manual_seed(6)
    second, other = GPT(GPTConfig(), seed=1).state_dict(), GPT(GPTConfig(), seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_dropout_is_off_in_eval(field: str) -> None:
    model = GPT(GPTConfig(depth=1, width=16, heads=2, **{field: 0.5}), seed=1)
    plain = GPT(GPTConfig(depth=1, width=16, heads=2), seed=1)
    for parameter in (*model.parameters(), *plain.parameters()):
        parameter.data.mul_(20)  # so that attention is not flat
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        assert not torch.equal(model.train()(tokens), model(tokens))
        assert torch.equal(model.eval()(tokens), plain.eval()(tokens))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", 3),
        ("heads", 0),
        ("depth", 1.0),
        ("depth", True),
        ("width", -4),
        ("dropout", 1.0),
        ("attention_dropout", math.nan),
        ("vocab_size", 1),
        ("ffn_mult", 0),
        ("bias", 1),
        ("init", "zeros"),
        ("position", "alibi"),
        ("rope_base", 1.0),
        ("extended_from", 129),
        ("extended_from", 0),
        ("extension", "yarn"),  # the positions are learned ones
        ("window", 0),
        ("window", 129),
        ("window", 2.0),
        ("window_pattern", ""),
        ("window_pattern", "SX"),
        ("kv_heads", 3),
        ("kv_heads", 0),
        ("qk_norm", 1),
        ("ffn", "relu"),
        ("norm", "batchnorm"),
        ("softcap", -1.0),
        ("softcap", math.inf),
        ("value_embeddings", 1),
        ("residual_scaling", "yes"),
    ],
)
def test_shapes_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(RecipeError, match=field) as caught:
        GPTConfig(**{field: value})  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.value) == (field, value)


def test_options_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(RecipeError, match="heads"):
        GPTConfig(width=12, heads=4, position="rope")  # heads of width 3
    with pytest.raises(RecipeError, match="extension"):
        GPTConfig(width=8, heads=4, position="rope", extension="ntk")


def test_sequences_beyond_the_context_are_refused() -> None:
    for position in ("learned", "sinusoidal", "rope"):
        with pytest.raises(RecipeError, match="length"):
            GPT(GPTConfig(context=8, position=position))(torch.zeros(1, 9, dtype=torch.long))


def test_a_llama_has_its_known_size() -> None:
    """Llama 3 8B's shape: 8.03 billion, of which this model has all but its norms' kind."""
    config = GPTConfig(
        vocab_size=128256,
        context=8192,
        depth=32,
        width=4096,
        heads=32,
        kv_heads=8,
        ffn="swiglu",
        ffn_mult=5.25,  # 14336
        position="rope",
        tied=False,
    )
    assert config.ffn_width == 14336
    assert config.parameters == 8_030_261_248


def test_shared_keys_and_values_are_those_of_a_model_that_repeats_them() -> None:
    shape = {"depth": 1, "width": 32, "heads": 4, "position": "rope", "qk_norm": True}
    shared, full = GPT(GPTConfig(kv_heads=2, **shape), seed=1), GPT(GPTConfig(**shape), seed=1)
    weights = shared.state_dict()
    q, k, v = weights["blocks.0.attention.qkv.weight"].split((32, 16, 16))
    repeated = [part.view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32) for part in (k, v)]
    full.load_state_dict({**weights, "blocks.0.attention.qkv.weight": torch.cat((q, *repeated))})
    tokens = torch.arange(30)[None]
    assert torch.allclose(shared(tokens), full(tokens), rtol=0, atol=1e-6)


def test_normed_queries_and_keys_bound_attention() -> None:
    """Weights a hundred times larger saturate plain attention, and leave this one as it was."""
    tokens = torch.arange(30)[None]
    changes = []
    for qk_norm in (False, True):
        model = GPT(GPTConfig(depth=1, width=32, heads=2, init="fan_in", qk_norm=qk_norm), seed=1)
        attention = model.blocks[0].attention
        torch.nn.init.normal_(attention.out.weight, generator=torch.Generator().manual_seed(0))
        before = model(tokens).detach()
        attention.qkv.weight.data[:64] *= 100.0
        changes.append(float((model(tokens).detach() - before).abs().max() / before.abs().max()))
    assert changes[1] < 1e-3 < 0.1 < changes[0]


def test_gains_of_queries_and_keys_are_of_channels_before_the_rotation() -> None:
    config = GPTConfig(depth=1, width=16, heads=2, context=6, position="rope", qk_norm=True, init="fan_in")
    model = GPT(config, seed=1)
    attention, rng = model.blocks[0].attention, torch.Generator().manual_seed(0)
    for weight in (attention.out.weight, attention.q_norm.weight, attention.k_norm.weight):
        torch.nn.init.normal_(weight, generator=rng)
    x = torch.randn(1, 6, 16, generator=rng)
    q, k, v = attention.qkv(x).view(1, 6, 6, 8).transpose(1, 2).split(2, 1)
    q, k = (rotate(norm(part), model.rotation) for norm, part in ((attention.q_norm, q), (attention.k_norm, k)))
    expected = attention.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(x, model.rotation), expected, atol=1e-5)


@pytest.mark.parametrize(("ffn", "activation"), [("swiglu", F.silu), ("reglu", F.relu)])
def test_a_gated_layer_is_a_gate_times_a_value(ffn: str, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
    config = GPTConfig(depth=1, width=48, heads=2, ffn=ffn)
    assert config.ffn_width == 128  # two thirds of 4 · 48
    layer = GPT(config, seed=1).blocks[0].ffn
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    gate, value = layer.up.weight.split(128)
    expected = (activation(x @ gate.T) * (x @ value.T)) @ layer.out.weight.T
    assert torch.allclose(layer(x), expected, atol=1e-7)


def test_swiglus_of_small_models_differ_by_their_multiple() -> None:
    widths = [GPTConfig(width=32, ffn="swiglu", ffn_mult=mult).ffn_width for mult in (2.0, 8 / 3, 4.0)]
    assert widths == [40, 56, 88]
    assert GPTConfig(width=8, heads=1, ffn="swiglu", ffn_mult=0.1).ffn_width == 8


def test_a_saved_swiglu_keeps_the_multiple_of_its_width(tmp_path: Path) -> None:
    model = GPT(GPTConfig(depth=1, width=32, heads=2, ffn="swiglu", ffn_multiple=64), seed=1)
    assert model.config.ffn_width == 64
    model.save(tmp_path)
    loaded, tokens = GPT.load(tmp_path), torch.arange(9)[None]
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens), model.eval()(tokens))


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(RecipeError, match="layers"):
        GPTConfig.from_json({"layers": 3})


@pytest.mark.parametrize(
    "options", [{"tied": True}, {"tied": False}, {"position": "rope", "window": 4}, {"position": "sinusoidal"}]
)
def test_a_saved_model_is_the_same_model(tmp_path: Path, options: dict[str, object]) -> None:
    model = GPT(GPTConfig(depth=1, width=16, heads=2, dropout=0.1, **options), seed=1).eval()  # type: ignore[arg-type]
    model.save(tmp_path / "model", note={"loss": 1.0})
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["note"] == {"loss": 1.0}
    loaded = GPT.load(tmp_path / "model")
    assert not loaded.training
    assert loaded.config == model.config
    tokens = torch.arange(30)[None]
    assert torch.equal(loaded(tokens), model(tokens))


def test_loading_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"config\.json"):
        GPT.load(tmp_path)
    GPT(GPTConfig(context=8, depth=1, width=16, heads=2)).save(tmp_path)
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    for text in (config.replace('"width": 16', '"width": 32'), "{}", "[]", "{"):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError, match=r"a model's save wrote"):
            GPT.load(tmp_path)
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RecipeError, match=r"a model's save wrote"):
        GPT.load(tmp_path)


def logits_of(model: GPT) -> torch.Tensor:
    return model(torch.arange(30)[None]).detach()  # type: ignore[no-any-return]


SMALL = {"depth": 3, "width": 32, "heads": 4, "init": "fan_in"}


@pytest.mark.parametrize("options", [{"value_embeddings": True}, {"residual_scaling": True}, {"ngrams": 4}], ids=str)
def test_optional_parts_begin_without_effect(options: dict[str, Any]) -> None:
    plain, model = GPT(GPTConfig(**SMALL), seed=1), GPT(GPTConfig(**SMALL, **options), seed=1)
    assert torch.equal(logits_of(model), logits_of(plain))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"value_embeddings": True}, "blocks.0.attention.values.weight"),
        ({"residual_scaling": True}, "blocks.1.scales"),
        ({"ngrams": 3, "ngram_rows": 20}, "ngrams.1.weight"),
    ],
)
def test_optional_parts_have_a_gradient_at_once(options: dict[str, Any], name: str) -> None:
    model = GPT(GPTConfig(**{**SMALL, "init": "normal"}, **options), seed=1)
    tokens = torch.arange(31)[None]
    F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    if name.startswith("ngrams."):
        rows = list(ngram_hashes(tokens[:, :-1], model.config))[1].unique()
        assert gradient.any(-1).nonzero().flatten().tolist() == rows.tolist()
    else:
        assert gradient[: 1 if name.endswith("scales") else 30].flatten(1 - gradient.ndim).any(-1).all()


def test_equal_ngrams_have_equal_rows_and_others_spread_over_all() -> None:
    config = GPTConfig(vocab_size=64, ngrams=4, ngram_rows=500)
    tokens = torch.randint(0, 64, (40, 128), generator=torch.Generator().manual_seed(0))
    for length, rows in enumerate(ngram_hashes(tokens, config), start=2):
        row_of: dict[tuple[int, ...], int] = {}
        for sequence, numbers in zip(tokens.tolist(), rows.tolist(), strict=True):
            for end, row in enumerate(numbers, start=1):
                ngram = tuple(sequence[max(0, end - length) : end])  # shorter at the start
                assert row_of.setdefault(ngram, row) == row
        counts = np.bincount(list(row_of.values()), minlength=500)
        assert len(row_of) > 2500
        assert scipy.stats.chisquare(counts).pvalue > 1e-4


@settings(max_examples=30)
@given(data=st.data())
def test_ngrams_do_not_reach_into_another_document(data: st.DataObject) -> None:
    config = GPTConfig(vocab_size=9, ngrams=data.draw(st.integers(2, 5)), ngram_rows=10**6, boundary=0)
    document = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=8))
    before = data.draw(st.lists(st.integers(0, 8), max_size=8))
    alone = ngram_hashes(torch.tensor([document]), config)
    after = ngram_hashes(torch.tensor([[*before, 0, *document]]), config)
    for rows, later_rows in zip(alone, after, strict=True):
        assert rows[0].tolist() == later_rows[0, len(before) + 1 :].tolist()


def test_every_second_block_from_the_last_has_value_embeddings() -> None:
    found = [GPTConfig(depth=depth, value_embeddings=True).embeds_values for depth in (1, 2, 3, 4)]
    assert found == [(True,), (False, True), (True, False, True), (False, True, False, True)]
    assert not any(GPTConfig(depth=2).embeds_values)


def test_value_embeddings_are_added_to_the_values() -> None:
    """Without queries, attention is the mean over all tokens so far."""
    attention = GPT(GPTConfig(**SMALL, value_embeddings=True, kv_heads=2), seed=1).blocks[0].attention
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        attention.qkv.weight[:32] = 0.0
        attention.values.weight.normal_(generator=rng)
        attention.out.weight.copy_(torch.eye(32))
    x, tokens = torch.randn(2, 5, 32, generator=rng), torch.randint(0, 256, (2, 5), generator=rng)
    values = F.linear(x, attention.qkv.weight[-16:]) + attention.values.weight[tokens]
    means = values.cumsum(1) / torch.arange(1, 6)[:, None]
    repeated = means.view(2, 5, 2, 8).repeat_interleave(2, 2).flatten(2)
    assert torch.allclose(attention(x, tokens=tokens), repeated, rtol=0, atol=1e-5)


def test_a_scaled_block_takes_a_mixture_of_stream_and_first_input() -> None:
    model, plain = (GPT(GPTConfig(**{**SMALL, "init": "normal"}, residual_scaling=on), seed=1) for on in (True, False))
    rng = torch.Generator().manual_seed(2)
    x, first = torch.randn(2, 5, 32, generator=rng), torch.randn(2, 5, 32, generator=rng)
    with torch.no_grad():
        model.blocks[1].scales.copy_(torch.tensor([0.5, 2.0]))
    assert torch.allclose(model.blocks[1](x, first=first), plain.blocks[1](0.5 * x + 2.0 * first), rtol=0, atol=1e-6)


def test_the_first_input_reaches_every_block() -> None:
    model = GPT(GPTConfig(**SMALL, residual_scaling=True), seed=1)  # blocks are identities, since `out` is zero
    with torch.no_grad():
        for block, scales in zip(model.blocks, ([1.0, 1.0], [2.0, 0.0], [1.0, 3.0]), strict=True):
            block.scales.copy_(torch.tensor(scales))
    stream: list[torch.Tensor] = []
    model.norm.register_forward_pre_hook(lambda module, inputs: stream.append(inputs[0]))
    logits_of(model)
    first = model.embedding.weight[:30] + model.positions.weight[:30]  # type: ignore[union-attr]
    assert torch.allclose(stream[0][0], 7.0 * first, rtol=0, atol=1e-6)  # 2 · (1 + 1) + 3


@pytest.mark.parametrize("norm", ["attention_norm", "ffn_norm", "norm"])
def test_rmsnorm_replaces_every_norm_of_the_stream(norm: str) -> None:
    model = GPT(GPTConfig(**SMALL, norm="rmsnorm", norm_eps=1e-3, bias=True), seed=1)
    module = model.norm if norm == "norm" else getattr(model.blocks[1], norm)
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(module(x), F.rms_norm(x, (32,), module.weight, 1e-3), rtol=0, atol=1e-6)


def test_a_feed_forward_layer_of_relu2_squares_a_relu() -> None:
    ffn = GPT(GPTConfig(**{**SMALL, "init": "normal"}, ffn="relu2"), seed=1).blocks[0].ffn
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    expected = F.linear(F.relu(F.linear(x, ffn.up.weight)) ** 2, ffn.out.weight)
    assert torch.allclose(ffn(x), expected, rtol=0, atol=1e-7)


def test_a_softcap_bounds_the_logits_of_a_model() -> None:
    plain, model = (GPT(GPTConfig(**SMALL, softcap=softcap), seed=1) for softcap in (0.0, 0.05))
    assert torch.allclose(logits_of(model), 0.05 * torch.tanh(logits_of(plain) / 0.05), rtol=0, atol=1e-6)


def generated(model: GPT, length: int, **sampling: Any) -> list[int]:
    config = model.eval().config
    return list(stream_tokens(model, [120], length, context=config.context, vocab_size=config.vocab_size, **sampling))


def test_text_is_generated_by_seed_and_within_context() -> None:
    model = GPT(GPTConfig(context=8, depth=1, width=16, heads=2, dropout=0.5), seed=1)
    state = torch.get_rng_state()
    tokens = generated(model, 30, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(tokens) == 30
    assert tokens == generated(model, 30, seed=4) != generated(model, 30, seed=5)
    assert generated(model, 0) == []


def test_the_likeliest_byte_needs_no_seed() -> None:
    model = GPT(GPTConfig(context=8, depth=1, width=16, heads=2), seed=1)
    assert generated(model, 9, temperature=0, seed=1) == generated(model, 9, temperature=0, seed=2)
    assert generated(model, 9, temperature=0) == generated(model, 9, top_k=1)


def test_bad_arguments_of_generate_are_refused() -> None:
    model = GPT(GPTConfig(context=8, depth=1, width=16, heads=2))
    for arguments in ({"length": -1}, {"temperature": -1.0}, {"top_k": 0}, {"top_k": 257}):
        with pytest.raises(RecipeError, match=next(iter(arguments))):
            generated(model, **{"length": 1, **arguments})  # type: ignore[arg-type]
