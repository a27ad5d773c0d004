import json
import math
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
        init=draw(st.sampled_from(["normal", "fan_in"])),
        position=draw(st.sampled_from(["learned", "rope"])),
        window=draw(st.none() | st.integers(1, context)),
        kv_heads=draw(st.none() | st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])),
        qk_norm=draw(st.booleans()),
        value_embeddings=draw(st.booleans()),
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
    config = GPTConfig(vocab_size=50257, context=1024, depth=12, width=768, heads=12)
    assert config.parameters == 124_337_664  # 124,439,808 less the biases


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
def test_an_untrained_model_knows_nothing(init: str) -> None:
    model = GPT(GPTConfig(depth=4, width=128, heads=4, init=init), seed=2)
    tokens = torch.randint(0, 256, (16, 129), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(256), abs=0.06)


def test_weights_begin_as_said() -> None:
    model = GPT(GPTConfig(depth=8, width=128, heads=4), seed=0)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.all(parameter == 1.0)
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


def test_dropout_is_off_in_eval() -> None:
    model = GPT(GPTConfig(depth=1, width=16, heads=2, dropout=0.5), seed=1)
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
        ("vocab_size", 1),
        ("ffn_mult", 0),
        ("init", "zeros"),
        ("position", "alibi"),
        ("extended_from", 129),
        ("extended_from", 0),
        ("extension", "yarn"),  # the positions are learned ones
        ("window", 0),
        ("window", 129),
        ("window", 2.0),
        ("kv_heads", 3),
        ("kv_heads", 0),
        ("qk_norm", 1),
        ("value_embeddings", 1),
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
    for position in ("learned", "rope"):
        with pytest.raises(RecipeError, match="length"):
            GPT(GPTConfig(context=8, position=position))(torch.zeros(1, 9, dtype=torch.long))


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


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(RecipeError, match="layers"):
        GPTConfig.from_json({"layers": 3})


def test_the_shape_of_a_model_of_1_1_keeps_the_fields_that_are_gone() -> None:
    config = GPTConfig(depth=3)
    assert GPTConfig.from_json({**config.to_json(), "softcap": 0.0}) == config
    old = {**config.to_json(), "softcap": 15.0, "ffn": "swiglu", "position": "sinusoidal"}
    shape = GPTConfig.from_json(old)
    assert shape.to_json() == old
    assert shape.ffn_width == 168  # 8 · 21: two thirds of 256, to the nearest multiple of 8


@pytest.mark.parametrize("options", [{}, {"position": "rope", "window": 4}])
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


@pytest.mark.parametrize("options", [{"value_embeddings": True}, {"ngrams": 4}], ids=str)
def test_optional_parts_begin_without_effect(options: dict[str, Any]) -> None:
    plain, model = GPT(GPTConfig(**SMALL), seed=1), GPT(GPTConfig(**SMALL, **options), seed=1)
    assert torch.equal(logits_of(model), logits_of(plain))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"value_embeddings": True}, "blocks.0.attention.values.weight"),
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
        assert gradient[:30].any(-1).all()


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
