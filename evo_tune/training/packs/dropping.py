"""Dropout of several models at once: each member's own share, and the noise that it would draw alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evo_tune.training.models.dropout import Dropout, Noise, lanes_of

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
        dropping = [number for number, layer in enumerate(self.layers) if layer.active]
        drawn = self._kept([self.layers[number] for number in dropping], rows)
        if len(dropping) == len(rows):
            return (rows * drawn).view(input.shape)
        kept = torch.ones_like(rows)
        kept[dropping] = drawn
        return (rows * kept).view(input.shape)

    def _kept(self, layers: Sequence[Dropout], rows: Tensor) -> Tensor:
        """Return by what the rows of some members are multiplied."""
        noises = [layer.noise for layer in layers]
        each = rows.shape[1] // next(noise.samples for noise in noises if noise is not None)
        places = zip(layers, noises, strict=True)
        words = [noise.unmixed(layer.place, each, self.part) for layer, noise in places if noise is not None]
        limits, scales = (
            torch.tensor(values, dtype=kind, device=rows.device)[:, None, None]
            for values, kind in (
                ([layer.threshold for layer in layers], torch.int16),
                ([1.0 / (1.0 - layer.share) for layer in layers], rows.dtype),
            )
        )
        kept = (lanes_of(torch.stack(words), each) >= limits).to(rows.dtype).mul_(scales)
        return kept.view(len(layers), -1)


class _Seeds(Noise):
    """What says the seeds of the members' samples, for a layer whose noise torch draws itself."""

    def __init__(self, layer: PackedDropout) -> None:
        super().__init__(0, 0)
        self._layers_of = layer.layers

    def __bool__(self) -> bool:
        return all(layer.noise for layer in self._layers_of)

    def seeds(self, place: int, part: int = 0) -> list[int]:
        return [seed for one in self._layers_of if one.noise is not None for seed in one.noise.seeds(one.place, part)]
