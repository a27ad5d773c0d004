"""Noise is each sample's own: a training does not depend on how its steps are cut, on any model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from evo_tune.training import (
    GPT,
    SGD,
    Adapters,
    Dropout,
    Epochs,
    FTTransformer,
    LoRA,
    Recipe,
    TextClassifier,
    Trainer,
    TrainingWindows,
    ViT,
    add_adapter,
)
from evo_tune.training.models.dropout import attach_noise
from evo_tune.training.recipe import FTConfig, GPTConfig, Schedule, TextConfig, ViTConfig, WeightDecay

SHAPE: dict[str, Any] = {"depth": 2, "width": 16, "heads": 2, "dropout": 0.2}
STEPS, BATCH = 3, 8


def gpt(**options: Any) -> GPT:
    return GPT(GPTConfig(vocab_size=16, context=10, **{**SHAPE, **options}), seed=1)


def tuned(options: LoRA | Adapters) -> GPT:
    model = gpt()
    add_adapter(model, options, seed=2)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt": gpt,
    "gpt shared keys": lambda: gpt(kv_heads=1, window=3, position="rope"),
    "gpt odd width": lambda: gpt(width=18, heads=1, depth=1),
    "recompute": lambda: GPT(GPTConfig(vocab_size=16, context=10, **SHAPE), seed=1, recompute=1),
    "lora": lambda: tuned(LoRA(rank=2, dropout=0.3)),
    "adapters": lambda: tuned(Adapters(bottleneck=4)),
    "vit": lambda: ViT(ViTConfig(outputs=3, image_height=4, image_width=4, patch=2, drop_path=0.3, **SHAPE), seed=1),
    "table": lambda: FTTransformer(FTConfig(outputs=3, numeric=5, drop_path=0.3, **SHAPE), seed=1),
    "text": lambda: TextClassifier(TextConfig(outputs=3, length=9, buckets=20, drop_path=0.3, **SHAPE), seed=1),
    "text trimmed": lambda: TextClassifier(TextConfig(outputs=3, length=9, buckets=20, **SHAPE), seed=1),
}


def source_for(model: nn.Module, micro_batch: int | None) -> Any:
    rng = torch.Generator().manual_seed(5)
    if isinstance(model, GPT):
        text = torch.randint(0, 16, (400,), generator=rng)
        return TrainingWindows(text, context=10, batch=BATCH, total=STEPS * BATCH, seed=3, micro_batch=micro_batch)
    if isinstance(model, TextClassifier):
        inputs = torch.randint(1, 21, (24, 9), generator=rng)
        inputs[torch.arange(9) >= torch.randint(1, 8, (24, 1), generator=rng)] = 0
    else:
        inputs = torch.randn(24, *((3, 4, 4) if isinstance(model, ViT) else (5,)), generator=rng)
    classes = torch.randint(0, 3, (24,), generator=rng)
    mixup = 0.0 if isinstance(model, TextClassifier) else 0.4
    return Epochs(
        inputs, classes, classes=3, batch=BATCH, total=STEPS * BATCH, seed=3, mixup=mixup, micro_batch=micro_batch
    )


def moved(model: nn.Module) -> nn.Module:
    """Draw all weights that are trained: those that begin at zero would hide what is dropped before them."""
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(0.0, 0.3, generator=rng)
    return model.double()


def trainer_for(name: str, micro_batch: int | None, noise_seed: int = 3) -> Trainer:
    model = moved(MODELS[name]())
    recipe = Recipe(optimizer=SGD(lr=0.1), schedule=Schedule(steps=STEPS), weight_decay=WeightDecay(start=0.0))
    return Trainer(model, source_for(model, micro_batch), recipe, seed=noise_seed)


def trained(trainer: Trainer) -> torch.Tensor:
    trainer.run(STEPS)
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


@pytest.mark.parametrize("name", MODELS)
def test_micro_batches_drop_what_the_whole_batch_drops(name: str) -> None:
    whole = trained(trainer_for(name, None))
    for micro_batch in (4, 3, 1):
        parts = trained(trainer_for(name, micro_batch))
        assert torch.allclose(whole, parts, rtol=0, atol=1e-10), micro_batch
    otherwise = trained(trainer_for(name, 4, noise_seed=4))
    assert float((whole - otherwise).norm() / whole.norm()) > 1e-4  # what is dropped does count


def test_parts_that_memory_asks_for_drop_the_same() -> None:
    whole, tight = trainer_for("gpt", None), trainer_for("gpt", 4)
    tight.parts = 2
    assert torch.allclose(trained(whole), trained(tight), rtol=0, atol=1e-10)


def test_what_is_computed_again_is_dropped_again() -> None:
    assert torch.equal(trained(trainer_for("gpt", 4)), trained(trainer_for("recompute", 4)))


def test_each_step_layer_and_sample_has_noise_of_its_own() -> None:
    trainer = trainer_for("gpt", None)
    blocks: Any = trainer.model.blocks  # type: ignore[union-attr]
    layers = [trainer.model.dropout, *(part for block in blocks for part in (block.dropout, block.ffn_dropout))]  # type: ignore[union-attr]
    found: list[list[torch.Tensor]] = [[] for _ in layers]
    for layer, masks in zip(layers, found, strict=True):
        layer.register_forward_hook(lambda module, args, output, masks=masks: masks.append(output == 0))
    trainer.run(2)
    masks = [row.flatten() for of_layer in found for mask in of_layer for row in mask]
    assert len(masks) == 5 * 2 * BATCH
    assert len({bytes(mask.numpy()) for mask in masks}) == len(masks)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_samples_are_dropped_independently(share: float) -> None:
    layer = nn.Sequential(Dropout(share))
    noise = attach_noise(layer, 7)
    assert noise is not None
    noise.begin(2, range(16), torch.device("cpu"))
    dropped = (layer(torch.ones(16, 40_000)) == 0).double()
    assert float(dropped.mean()) == pytest.approx(share, abs=5 * (share / 640_000) ** 0.5)
    for lane in range(4):  # four channels share a word
        part = (dropped[:, lane::4] - share) / (share * (1 - share)) ** 0.5
        products = part @ part.T / 10_000**0.5
        assert float(products.triu(1).abs().max()) < 5.5
    whole = (dropped - share).flatten()
    for distance in (1, 2, 3, 4, 40_000):
        assert abs(float((whole[distance:] * whole[:-distance]).mean())) < 5 * share / 600_000**0.5


def test_a_pass_outside_of_a_training_draws_from_torchs_generator() -> None:
    trainer = trainer_for("gpt", None)
    trainer.run(1)
    tokens, outputs = torch.zeros(3, 10, dtype=torch.long), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(trainer.model(tokens))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_noise_is_drawn_only_where_something_is_dropped() -> None:
    assert attach_noise(gpt(dropout=0.0), 1) is None
    model = gpt()
    noise = attach_noise(model, 1)
    assert noise is not None
    assert noise.layer_count == 1 + 2 * 2


def test_noise_of_torchs_own_layers_follows_from_seed_and_step() -> None:
    """A pre-trained model has layers such as `nn.Dropout`, which draw from torch's generator."""
    masks: list[bytes] = []

    def begun() -> Trainer:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Embedding(16, 8), nn.Dropout(0.5), nn.Linear(8, 16))
        model[1].register_forward_hook(lambda layer, inputs, output: masks.append((output == 0).numpy().tobytes()))
        recipe = Recipe(optimizer=SGD(lr=0.1), schedule=Schedule(steps=6), weight_decay=WeightDecay(start=0.0))
        text = torch.randint(0, 16, (400,), generator=torch.Generator().manual_seed(5))
        return Trainer(model, TrainingWindows(text, context=10, batch=4, total=24, seed=3), recipe, seed=3)

    whole, first, second = begun(), begun(), begun()
    whole.run(6)
    first.run(3)
    torch.manual_seed(99)  # another process would have another state
    second.restore(first.state())
    second.run(6)
    assert len(set(masks[:6])) == 6
    assert masks[6:] == masks[:6]
    assert torch.equal(second.model[2].weight, whole.model[2].weight)  # type: ignore[index]
