from contextlib import nullcontext

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from evo_tune.errors import RecipeError
from evo_tune.training import GPT, AdamW, accumulate
from evo_tune.training.recipe import GPTConfig, fit_memory, predict_memory
from evo_tune.training.recipe.hardware.memory import Setup, activation_bytes, state_bytes

SHAPE = {"context": 128, "depth": 3, "width": 128, "heads": 4, "vocab_size": 64}


def saved_bytes(model: GPT, tokens: torch.Tensor, precision: str) -> int:
    """Count the bytes of all storages that autograd keeps, without the model's own."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other takes its address
        return tensor

    low = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    with saved_tensors_hooks(pack, lambda tensor: tensor), low:
        model(tokens)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.1},
        {"ffn_mult": 6.0},
        {"kv_heads": 1},
        {"position": "rope"},
        {"qk_norm": True},
        {"position": "rope", "qk_norm": True, "kv_heads": 2},
        {"window": 32},
        {"window": 8, "position": "rope", "kv_heads": 2},
        {"value_embeddings": True},
        {"value_embeddings": True, "position": "rope"},
        {"value_embeddings": True, "position": "rope", "qk_norm": True, "kv_heads": 2},
        {"value_embeddings": True, "window": 32, "kv_heads": 1},
        {"qk_norm": True, "context": 32},  # plain products in float32
        {"heads": 16},
        {"heads": 16, "kv_heads": 4, "position": "rope", "qk_norm": True, "value_embeddings": True},
        {"heads": 16, "kv_heads": 2, "window": 32, "position": "rope"},
        {"window": 32, "context": 288},  # in chunks
        {"window": 8, "position": "rope", "kv_heads": 2, "context": 288},
        {"ngrams": 4, "ngram_rows": 64},
        {"boundary": 0},
        {"boundary": 0, "context": 32},
        {"boundary": 0, "context": 264, "kv_heads": 2, "position": "rope"},  # beyond plain products in bf16
        {"boundary": 0, "window": 32, "kv_heads": 2, "value_embeddings": True},
        {"boundary": 0, "window": 48, "qk_norm": True, "position": "rope", "heads": 16},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_what_is_kept_is_what_the_formula_says(options: dict[str, object], precision: str) -> None:
    config = GPTConfig(**{**SHAPE, **options})  # type: ignore[arg-type]
    tokens = torch.zeros(4, config.context, dtype=torch.long)
    measured = saved_bytes(GPT(config), tokens, precision)
    assert activation_bytes(config, 4, Setup(precision=precision)) == pytest.approx(measured, rel=0.003)


def test_a_plain_block_keeps_what_the_papers_count() -> None:
    one, two = (GPTConfig(**{**SHAPE, "depth": depth}) for depth in (1, 2))
    tokens, d, rest = 4 * 128, 128, 4 * 128 * (16 + 4 * 4)  # statistics of norms and softmax
    full, low, plain = (
        activation_bytes(two, 4, Setup(precision=p, device=device))
        - activation_bytes(one, 4, Setup(precision=p, device=device))
        for p, device in (("fp32", "cpu"), ("bf16", "cuda"), ("bf16", "cpu"))
    )
    assert full - rest == 64 * tokens * d
    assert low - rest == 36 * tokens * d + 24 * d * d
    assert plain - low == tokens * 4 * (2 * 128 - 4)  # the weights between tokens, for a statistic each


@pytest.mark.parametrize("boundary", [None, 0])
@pytest.mark.parametrize("every", [1, 2])
def test_blocks_to_be_computed_again_keep_their_input_only(every: int, boundary: int | None) -> None:
    config = GPTConfig(**SHAPE, boundary=boundary)
    tokens = torch.zeros(4, 128, dtype=torch.long)
    measured = saved_bytes(GPT(config, recompute=every), tokens, "fp32")
    one = (activation_bytes(config, 4, Setup()) - 4 * 128 * (8 * 128 + 16)) / 3
    assert activation_bytes(config, 4, Setup(recompute=every)) - one == pytest.approx(measured, rel=0.03)


def test_states_are_what_a_training_holds() -> None:
    model = GPT(GPTConfig(**SHAPE))
    optimizer = AdamW(lr=1e-3).build(model)
    tokens = torch.zeros(1, 128, dtype=torch.long)
    accumulate(model, [(tokens, tokens)])
    optimizer.step()
    held = sum(p.nbytes + p.grad.nbytes for p in model.parameters() if p.grad is not None)
    held += sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim)
    assert state_bytes(model.config.parameters, Setup()) == held
    assert state_bytes(10, Setup(optimizer="sgd", ema=True)) == 16 * 10
    assert state_bytes(10, Setup(optimizer="muon"), 6) == 16 * 4 + 12 * 6


def test_a_prediction_adds_up() -> None:
    config = GPTConfig(**SHAPE)
    memory = predict_memory(config, 4, precision="bf16", ema=True)
    activations = activation_bytes(config, 4, Setup(precision="bf16"))
    assert memory[:4] == (20.0 * config.parameters, activations, 12.0 * 4 * 128 * 64, 0.0)
    # Gradients do not exist yet when the activations are largest, except those of an earlier pass.
    accumulated = predict_memory(config, 4, precision="bf16", ema=True, accumulated=True)
    assert accumulated.peak == sum(memory[:3])
    assert predict_memory(config, 4, precision="bf16", ema=True, ranks=2).peak == accumulated.peak
    assert memory.peak < accumulated.peak
    assert memory._replace(step=None).peak == pytest.approx(1.1 * sum(memory[:3]))
    assert predict_memory(config, 4, device="cuda").peak > predict_memory(config, 4).peak
    assert predict_memory(config, 8).activations > 1.9 * predict_memory(config, 4).activations


def test_the_micro_batch_is_halved_until_it_fits() -> None:
    config = GPTConfig(**SHAPE)
    sizes = {micro: predict_memory(config, micro, accumulated=micro < 24).peak / 0.9 for micro in (24, 12, 6, 3, 2, 1)}
    for micro, needed in sizes.items():
        assert fit_memory(config, 24, needed * 1.0001)[:2] == (micro, None)


def test_blocks_are_computed_again_only_where_one_sequence_does_not_fit() -> None:
    config = GPTConfig(**{**SHAPE, "depth": 12})
    memory = predict_memory(config, 1, accumulated=True)
    one = memory.peak / 0.9
    fit = fit_memory(config, 16, one * 1.0001)
    assert (fit.micro_batch, fit.recompute, fit.memory) == (1, None, memory)
    fit = fit_memory(config, 16, one * 0.9999)
    assert fit.recompute == 1
    assert fit.micro_batch > 1  # what it saves is used
    assert fit.memory == predict_memory(config, fit.micro_batch, recompute=1, accumulated=True)
    assert fit.memory.peak <= 0.9 * one
    with pytest.raises(RecipeError, match="capacity"):
        fit_memory(config, 16, predict_memory(config, 1, recompute=1).peak)
