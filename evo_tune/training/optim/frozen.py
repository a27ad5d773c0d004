"""What of a model moves in a training, where some of its weights are frozen: only that is kept, averaged and saved.

Without frozen weights it is the whole model. Knows nothing of which weights are frozen, or why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["load_moving", "moving", "share_frozen"]


def _frozen(model: nn.Module) -> set[str]:
    named = model.named_parameters(remove_duplicate=False)  # a tied weight stands under each of its names
    return {name for name, parameter in named if not parameter.requires_grad}


def moving(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state without its frozen weights."""
    frozen = _frozen(model)
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_moving(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what `moving` returned; frozen weights stay as they are.

    Raises:
        RuntimeError: It is another model's.
    """
    frozen, own = _frozen(model), model.state_dict()
    model.load_state_dict({**{name: value for name, value in own.items() if name in frozen}, **state})


def share_frozen(model: nn.Module, copy: nn.Module) -> None:
    """Let a copy of a model have the model's own frozen weights, which are then in memory once."""
    for mine, other in zip(model.parameters(), copy.parameters(), strict=True):
        if not mine.requires_grad:
            other.data = mine.data
