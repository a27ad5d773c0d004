from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from evo_tune.training import GPT, IGNORE, LoRA, Precision, accumulate, add_lora, evaluate
from evo_tune.training.evaluation import evaluate_by_position
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.optim import losses
from evo_tune.training.optim.losses import (
    CrossEntropy,
    QuantileLoss,
    SquaredError,
    cross_entropy_in_pieces,
    cross_entropy_sum,
)
from evo_tune.training.recipe import GPTConfig, predict_memory
from evo_tune.training.recipe.hardware.memory import Setup, activation_bytes, logit_bytes
from evo_tune.training.recipe.models.gpt_config import LARGE_VOCABULARY, tokens_in_piece


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "tokens_in_piece", lambda vocab_size, device: 5)


def case(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 6, generator=rng, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 6, generator=rng, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 11, (3, 7), generator=rng)
    targets[0, 3:] = IGNORE
    targets[1] = IGNORE
    return x, weight, targets


@pytest.mark.usefixtures("small_pieces")
def test_loss_and_gradients_are_those_of_whole_logits() -> None:
    x, weight, targets = case(torch.float64)
    expected = cross_entropy_sum(F.linear(x, weight), targets)
    (0.25 * expected).backward()
    whole = x.grad, weight.grad
    x.grad = weight.grad = None
    minimised, loss = cross_entropy_in_pieces(x, weight, targets=targets, factor=0.25)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(expected.item(), rel=1e-14)
    (3.0 * minimised).backward()  # type: ignore[no-untyped-call]
    for given, plain in zip((x.grad, weight.grad), whole, strict=True):
        assert torch.allclose(given, 3.0 * plain, rtol=0, atol=1e-13)  # type: ignore[operator,arg-type]


@pytest.mark.usefixtures("small_pieces")
def test_large_logits_do_not_overflow_and_frozen_parts_get_no_gradient() -> None:
    x, weight, targets = case(torch.float32)
    weight.requires_grad_(False)
    minimised, loss = cross_entropy_in_pieces(x * 1e4, weight, targets=targets)
    minimised.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert weight.grad is None


def gradient(model: GPT, precision: str, window: Any, *, scale: Any = None) -> tuple[torch.Tensor, float]:
    autocast = Precision(name=precision).autocast
    loss, _ = accumulate(model, window, scale=scale, autocast=lambda: autocast(torch.device("cpu")))
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([p.grad.flatten() for p in trained if p.grad is not None]), float(loss)


def model_of(vocab_size: int, *, lora: bool = False, **options: Any) -> GPT:
    model = GPT(GPTConfig(vocab_size=vocab_size, context=16, width=32, depth=1, init="fan_in", **options), seed=1)
    if lora:
        add_lora(model, LoRA(rank=2, dropout=0.0, targets=("ffn.out",)))
        with torch.no_grad():
            for weight in (p for p in model.parameters() if p.requires_grad):
                weight.normal_(generator=torch.Generator().manual_seed(3))
    return model


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02), ("fp16", 0.02)])
@pytest.mark.parametrize("options", [{}, {"lora": True}], ids=str)
def test_a_model_of_many_words_learns_the_same_in_pieces(
    options: dict[str, Any], precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, LARGE_VOCABULARY, (5, 17), generator=rng)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[0, 4:] = IGNORE
    window = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])]
    scale = (lambda loss: loss * 1024.0) if precision == "fp16" else None
    calls: list[str] = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append("pieces")
        return cross_entropy_in_pieces(*args, **options)

    monkeypatch.setattr(losses, "cross_entropy_in_pieces", counted)
    pieces, loss = gradient(model_of(LARGE_VOCABULARY, **options), precision, window, scale=scale)
    monkeypatch.setattr(GPT, "in_pieces", False)
    whole, plain_loss = gradient(model_of(LARGE_VOCABULARY, **options), precision, window, scale=scale)
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    assert float((pieces - whole).norm() / whole.norm()) < tolerance
    assert calls == ["pieces", "pieces"]


def test_a_model_of_many_words_is_judged_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(0, LARGE_VOCABULARY, (5, 17), generator=torch.Generator().manual_seed(2))
    window = tokens[:, :-1], tokens[:, 1:].clone()
    window[1][0, 4:] = IGNORE
    monkeypatch.setattr(losses, "tokens_in_piece", lambda vocab_size, device: 7)
    model, found = model_of(LARGE_VOCABULARY), []
    for in_pieces in (True, False):
        monkeypatch.setattr(GPT, "in_pieces", in_pieces)
        places = evaluate_by_position(model, window, batch=2)
        found.append([evaluate(model, window, batch=2).loss, *(place.loss for place in places)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_small_vocabularies_are_left_alone() -> None:
    assert not model_of(LARGE_VOCABULARY - 1).in_pieces
    assert model_of(LARGE_VOCABULARY).in_pieces


def peak_bytes(model: GPT, tokens: torch.Tensor, precision: str) -> int:
    """Most memory that was allocated at once for the gradient of a batch, as torch's profiler saw it."""
    from torch._C._profiler import _EventType

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        gradient(model, precision, [(tokens, tokens)])
    events: list[tuple[int, int]] = []
    rest = list(profiled.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    while rest:
        event = rest.pop()
        rest.extend(event.children)
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    live = most = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        live += size
        most = max(most, live)
    return most


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("vocab_size", [256, 1000, 4096, 16384])
def test_predicted_memory_is_what_a_profiler_sees(vocab_size: int, precision: str) -> None:
    config = GPTConfig(vocab_size=vocab_size, context=128, depth=2, width=64, heads=4)
    tokens = torch.randint(0, config.vocab_size, (8, 128), generator=torch.Generator().manual_seed(0))
    memory = predict_memory(config, 8, precision=precision)
    assert memory.activations + memory.logits == pytest.approx(peak_bytes(GPT(config), tokens, precision), rel=0.05)


def test_a_large_vocabularys_logits_are_a_small_part() -> None:
    """16 windows of 2048 tokens: 80.5 GB whole, of which the logits alone are 32."""
    config = GPTConfig(vocab_size=65536, context=2048, depth=8, width=512, heads=8)
    tokens = 16 * 2048
    logits = predict_memory(config, 16, precision="bf16", device="cuda").logits
    assert logits == 6 * tokens_in_piece(65536, "cuda") * 65536 + 4 * 512 * (65536 + tokens)
    assert logits < 1e9 < 0.05 * 20 * tokens * 65536
    assert logits < 0.2 * activation_bytes(config, 16, Setup(precision="bf16", device="cuda"))
    assert logit_bytes(config, tokens, Setup(), frozen=True) == logit_bytes(config, tokens, Setup()) - 4 * 512 * 65536
    assert tokens_in_piece(2**30, "cpu") == 1


REAL_LOSSES = [SquaredError(), QuantileLoss((0.1, 0.5, 0.9))]


@pytest.mark.parametrize("loss", REAL_LOSSES)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_missing_targets_change_no_gradient_in_micro_batches_of_any_size(loss: Any, size: int) -> None:
    """Mean of plain numbers over the targets that are not NaN, whatever is in their place in another training."""
    rng = torch.Generator().manual_seed(0)
    outputs = 3 * (len(loss.levels) if isinstance(loss, QuantileLoss) else 1)
    inputs, targets = (torch.randn(7, n, generator=rng, dtype=torch.float64) for n in (4, 3))
    missing = torch.rand(7, 3, generator=rng) < 0.4
    missing[2] = True  # a micro-batch without targets
    models = [nn.Linear(4, outputs).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    parts = (inputs.split(size), targets.masked_fill(missing, torch.nan).split(size))  # type: ignore[no-untyped-call]
    mean, count = accumulate(models[0], list(zip(*parts, strict=True)), loss=loss)
    forecast = models[1](inputs).view(7, 3, -1)
    errors = targets[..., None] - forecast
    levels = torch.tensor(loss.levels, dtype=torch.float64) if isinstance(loss, QuantileLoss) else None
    each = errors**2 if levels is None else torch.where(errors > 0, levels * errors, (levels - 1) * errors)
    expected = each.mean(2)[~missing].mean()
    expected.backward()
    assert count == int((~missing).sum())
    assert float(mean) == pytest.approx(expected.item(), rel=1e-12)
    for mine, plain in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(mine.grad, plain.grad, rtol=1e-12, atol=1e-15)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [*REAL_LOSSES, CrossEntropy(), CrossEntropy((1.0, 2.0, 3.0), 0.1)])
def test_a_rank_without_samples_adds_nothing_to_a_loss_of_real_numbers(loss: Any) -> None:
    targets = torch.full((1, 3), 1.0 / 3.0)
    ((_, aims),) = Ranks(2, 3, torch.device("cpu")).share([(torch.ones(1, 4), targets)])
    outputs = torch.randn(1, 9 if isinstance(loss, QuantileLoss) else 3, requires_grad=True)
    reported, minimised = loss.shares(outputs, aims, 1)
    minimised.backward()
    assert loss.count(aims) == reported.item() == minimised.item() == 0.0
    assert outputs.grad is not None
    assert not outputs.grad.any()
