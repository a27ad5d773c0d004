"""Members of packs: trainers of one shape, each with rates, noise and data of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from evo_tune.training import Trainer, WeightDecay

OWN: list[dict[str, Any]] = [
    {"seed": 1, "lr": 1e-3, "dropout": 0.1, "clip": 0.3, "schedule": "wsd"},
    {"seed": 2, "lr": 6e-3, "dropout": 0.0, "clip": None},
    {"seed": 3, "lr": 2e-2, "dropout": 0.3, "clip": 1.0, "weight_decay": WeightDecay(start=0.3, end=0.0)},
]
"""What tells three members of a pack apart."""

RECIPES = [{"z_loss": 0.1, "ema": 0.5}, {"z_loss": 0.0, "ema": 0.9}, {"z_loss": 1e-3, "ema": 0.99}]


@pytest.fixture
def make_members(make_trainer: Callable[..., Trainer]) -> Callable[..., list[Trainer]]:
    """Build three, in float64 unless told otherwise; keywords are for all of them, `recipes` one for each."""

    def make(dtype: torch.dtype = torch.float64, recipes: list[dict[str, Any]] | None = None, **common: Any) -> Any:
        made = []
        for number, own in enumerate(OWN):
            recipe = {} if recipes is None else {"recipe": recipes[number]}
            trainer = make_trainer(**{**own, **common, **recipe})
            trainer.model.to(dtype)
            if trainer.averaged is not None:
                trainer.averaged.module.to(dtype)
            made.append(trainer)
        return made

    return make


def numbers(trainer: Trainer) -> torch.Tensor:
    """Return all that a training has come to, as one vector: weights, moments and average."""
    parts = getattr(trainer.optimizer, "optimizers", [trainer.optimizer])
    moments = [value for part in parts for state in part.state.values() for _, value in sorted(state.items())]
    average = [] if trainer.averaged is None else list(trainer.averaged.parameters())
    every = [*trainer.model.parameters(), *moments, *average]
    return torch.cat([one.detach().flatten().double() for one in every])


def apart(first: Trainer, second: Trainer) -> float:
    """Return by how much two trainings differ, at most; all that is counted must be the same."""
    for name in ("step", "targets", "clipped"):
        assert getattr(first, name) == getattr(second, name)
    assert first.watch.state() == pytest.approx(second.watch.state(), abs=1e-5)
    if first.averaged is not None:
        assert first.averaged.n_averaged == second.averaged.n_averaged  # type: ignore[union-attr]
    return float((numbers(first) - numbers(second)).abs().max())
