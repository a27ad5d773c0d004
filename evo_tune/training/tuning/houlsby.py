"""Houlsby adapters: a small bottleneck after a frozen layer (Houlsby et al., arXiv:1902.00751).

y ← y + U · gelu(D · y), with U at zero, so that a model begins as it was. After both residual branches'
outputs of each block that is two a block. Knows no particular model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_tune.errors import RecipeError
from evo_tune.options.bounds import check_integer
from evo_tune.recipe.models.base import check_targets
from evo_tune.training.models.unfilled import unfilled
from evo_tune.training.tuning.lora import matching_linears

__all__ = ["Adapter", "Adapters", "add_adapters"]


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Options of adapters.

    Args:
        bottleneck: Width m, 1 or more.
        targets: The linear layers after whose outputs they stand (see `matching_names`).

    Raises:
        RecipeError: A field is out of its range.
    """

    bottleneck: int = 16
    targets: tuple[str, ...] = ("attention.out", "ffn.out")

    def __post_init__(self) -> None:
        check_integer("bottleneck", self.bottleneck, 1)
        check_targets(self.targets)


class Adapter(nn.Module):
    """The bottleneck: 2md + d + m weights at width d."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        with unfilled():  # filled by add_adapters, without using up any other randomness
            self.down = nn.Linear(width, bottleneck)
            self.up = nn.Linear(bottleneck, width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Begin as the identity."""
        self.down.weight.normal_(0.0, self.down.in_features**-0.5, generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            zero.zero_()

    def forward(self, y: Tensor) -> Tensor:
        adapted: Tensor = y + self.up(F.gelu(self.down(y)))
        return adapted


def add_adapters(model: nn.Module, options: Adapters, seed: int = 0) -> list[str]:
    """Freeze a model and put an adapter after each target layer, in place.

    Args:
        model: Its outputs stay what they are.
        options: Width and targets.
        seed: Seed of the downward maps.

    Returns:
        The names of the layers.

    Raises:
        RecipeError: A target names no linear layer, or one that has an adapter. The model is left alone.
    """
    layers = matching_linears(model, options.targets)
    for name, layer in layers.items():
        if hasattr(layer, "adapter"):
            raise RecipeError("targets", name, "a layer without an adapter")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for layer in layers.values():
        adapter = Adapter(layer.out_features, options.bottleneck)
        adapter.initialise(generator)
        layer.adapter = adapter.to(layer.weight).train(layer.training)
        # A hook, so that the layer's weights keep their names; a function of the module, so that copies of
        # the model use their own adapter.
        layer.register_forward_hook(_adapt)
    return list(layers)


def _adapt(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
    adapted: Tensor = layer.adapter(output)  # type: ignore[operator]
    return adapted
