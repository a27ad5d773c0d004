"""Dropout of several models at once: each member's own share, and the noise that it would draw alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evo_tune.training.models.dropout import Dropout, Noise, lanes_of
from evo_tune.training.packs.numbers import of_each

__all__ = ["PackedDropout"]


class PackedDropout(Dropout):
    """A layer of dropout in each of several models, passed through as one.

    Args:
        layers: The members' own, in a training that has begun a pass of each.
    """

    def __init__(self, layers: Sequence[Dropout]) -> None:
        super().__init__(max(layer.share for layer in layers))
        self.layers = tuple(layers)
        self.noise = _Seeds(self)

    @property
    def active(self) -> bool:
        return any(layer.active for layer in self.layers)

    def forward(self, input: Tensor) -> Tensor:
        """Drop of what holds each member's samples one after another what the member would drop."""
        if not self.active:
            return input
        rows = input.reshape(len(self.layers), -1)
        samples = next(layer.noise.samples for layer in self.layers if layer.noise is not None)
        each = rows.shape[1] // samples
        words = [
            layer.noise.unmixed(layer.place, each, self.part)
            if layer.noise is not None
            else rows.new_zeros((samples, -(-each // 4)), dtype=torch.int64)  # it drops nothing, whatever is drawn
            for layer in self.layers
        ]
        limits = of_each([layer.threshold for layer in self.layers], torch.int16, rows.device)[:, None, None]
        scales = of_each([1.0 / (1.0 - layer.share) for layer in self.layers], rows.dtype, rows.device)
        kept = (lanes_of(torch.stack(words), each) >= limits).to(rows.dtype).mul_(scales[:, None, None])
        return (rows * kept.view(rows.shape)).view(input.shape)


class _Seeds(Noise):
    """What says the seeds of the members' samples, for a layer whose noise torch draws itself."""

    def __init__(self, layer: PackedDropout) -> None:
        super().__init__(0, 0)
        self._layers_of = layer.layers

    def __bool__(self) -> bool:
        return all(layer.noise for layer in self._layers_of)

    def seeds(self, place: int, part: int = 0) -> list[int]:
        return [seed for one in self._layers_of if one.noise is not None for seed in one.noise.seeds(one.place, part)]
