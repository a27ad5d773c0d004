from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from evo_tune.training import GPT, SGD, AdamW, Muon, Recipe, Trainer, TrainingWindows
from evo_tune.training.recipe import GapDecay, GPTConfig, Schedule, WeightDecay
from tests.training.forked import forked_ranks as forked_ranks


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Have one thread, as a worker has: two that wait for each other on a busy machine take up both of its cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text() -> torch.Tensor:
    """A text with something to learn in it, from 16 tokens."""
    rng = torch.Generator().manual_seed(7)
    words = torch.randint(0, 16, (40, 5), generator=rng)
    return words[torch.randint(0, 40, (400,), generator=rng)].flatten().to(torch.uint8)


@pytest.fixture
def make_trainer(text: torch.Tensor) -> Callable[..., Trainer]:
    """Build a small trainer; keywords reach whichever part knows them."""

    def make(
        steps: int = 20,
        batch: int = 4,
        micro_batch: int | None = None,
        seed: int = 3,
        lr: float = 3e-3,
        schedule: str = "cosine",
        weight_decay: WeightDecay | GapDecay | None = None,
        clip: float | None = 1.0,
        optimizer: str = "adamw",
        recipe: dict[str, Any] | None = None,
        **config: object,
    ) -> Trainer:
        shape = {"vocab_size": 16, "context": 8, "depth": 2, "width": 16, "heads": 2, **config}
        source = TrainingWindows(text, context=8, batch=batch, total=steps * batch, seed=seed, micro_batch=micro_batch)
        made = Recipe(
            optimizer={"adamw": AdamW, "sgd": SGD, "muon": Muon}[optimizer](lr=lr),
            schedule=Schedule(steps=steps, schedule=schedule),
            weight_decay=weight_decay or WeightDecay(start=0.1),
            clip=clip,
            **(recipe or {}),
        )
        return Trainer(GPT(GPTConfig(**shape), seed=seed), source, made, seed=seed)

    return make


@pytest.fixture
def weights() -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    """Copy a model's weights."""
    return lambda model: {name: tensor.clone() for name, tensor in model.state_dict().items()}
