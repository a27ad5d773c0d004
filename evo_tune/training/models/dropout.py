"""Dropout and drop-path with noise per sample, independent of the other samples in a pass.

A sample's noise is a function of the training's seed, the step, the layer and the sample's number within the step. So
micro-batches of any size and any number of ranks drop the same values, and so does a recomputed block. A trainer
attaches `NoiseSource` to its model; without it, the noise comes from torch's generator.

Noise is drawn once per layer and mixed with each sample's key by a few multiplications: 16 bits per channel and sample,
in half the time of torch's dropout on a CPU. This module is independent of models.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from evo_tune.training.hardware.device import seed_for, seeds_for

# Odd numbers with well-mixed bits (the first two are splitmix64's, Steele et al. 2014), as int64.
_MULTIPLIER_1, _MULTIPLIER_2 = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_KEY_STRIDE = 0x9E3779B97F4A7C15 - 2**64


class NoiseSource:
    """Source of the noise of a model's layers, for one pass at a time.

    Args:
        seed: Seed of the training, 0 to 2³² − 1.
        layer_count: Number of layers that draw noise.
    """

    def __init__(self, seed: int, layer_count: int) -> None:
        self.seed, self.layer_count = seed, layer_count
        self._step = -1
        self._layer_seeds: list[int] = []
        # Key of each sample of the pass, (samples, 1), int64; None: no pass is running.
        self.keys: Tensor | None = None
        self._generator: torch.Generator | None = None
        # For compiled layers, to which numbers would be constants: seed and threshold of each layer, (layers, 2).
        self._table: Tensor | None = None

    def begin(self, step: int, samples: range, device: torch.device) -> None:
        """Start a pass, which lasts until `end` and includes the backward pass.

        Args:
            step: Number of the step.
            samples: Numbers of the samples within the step, in order.
            device: Device of the model.
        """
        if step != self._step:
            self._step, self._layer_seeds = step, seeds_for(self.seed, "dropout", self.layer_count, step)
            if self._table is not None:
                self._table[:, 0] = torch.tensor(self._layer_seeds)
        keys = torch.arange(samples.start, samples.stop, dtype=torch.int64, device=device)[:, None]
        # Keys differ widely for adjacent numbers, and change with each step.
        self.keys = _mix_in_place(_mix_in_place(keys * _KEY_STRIDE + seed_for(self.seed, "samples", step)))
        if self._generator is None or self._generator.device != self.keys.device:
            self._generator = torch.Generator("cpu" if device.type == "meta" else device)
        if self._table is not None and len(samples) > 1:
            torch._dynamo.mark_dynamic(self.keys, 0)

    def end(self) -> None:
        """End the pass; later computations are not part of the training."""
        self.keys = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "NoiseSource":
        # A copy of a model, such as its average, is not part of the pass.
        return NoiseSource(self.seed, self.layer_count)

    def draw_int16(self, layer_index: int, shape: torch.Size) -> Tensor:
        """Return uniformly distributed 16-bit integers, int16.

        A sample's values do not depend on the number of samples; those of a longer sample begin with a shorter one's.

        Args:
            layer_index: Number of the layer.
            shape: (samples, …), or (samples · n, …) with each sample's n rows consecutive.
        """
        assert self.keys is not None
        assert self._generator is not None
        self._generator.manual_seed(self._layer_seeds[layer_index])
        return _draw_int16(shape, self.keys, self._generator)

    def prepare_for_compiler(self, layers: "Iterable[NoiseLayer]") -> None:
        """Let compiled layers draw the same noise by an operator that reads all numbers from tensors.

        Args:
            layers: The layers, numbered by `attach_noise`.
        """
        register_drop_mask()
        layers = list(layers)
        self._step, self._table = -1, torch.tensor([[0, layer.threshold] for layer in layers])
        for layer, row in zip(layers, self._table, strict=True):
            layer.seed_and_threshold, layer.scale_tensor = row, torch.tensor(layer.scale, dtype=torch.float64)


def _draw_int16(shape: Sequence[int], keys: Tensor, generator: torch.Generator) -> Tensor:
    sample_count, value_count = len(keys), math.prod(shape)
    values_per_sample = value_count // sample_count
    if values_per_sample * sample_count != value_count:
        # An input such as a mask that all samples share: all of it is drawn with the first sample's key.
        sample_count, values_per_sample = 1, value_count
    words = _draw_words(values_per_sample, keys.device, generator)
    integers = _mix_in_place(words + keys[:sample_count]).view(torch.int16)
    return integers[:, :values_per_sample].reshape(shape)


@functools.cache
def register_drop_mask() -> None:
    """Register the operator that draws noise in a compiled graph, where seeding a generator cannot be traced."""

    @torch.library.custom_op("evo_tune::drop_mask", mutates_args=())
    def drop_mask(shape: list[int], keys: Tensor, seed_and_threshold: Tensor) -> Tensor:
        seed, threshold = seed_and_threshold.tolist()
        generator = torch.Generator(keys.device).manual_seed(seed)
        return cast(Tensor, _draw_int16(shape, keys, generator) < threshold)

    @drop_mask.register_fake
    def _(shape: list[int], keys: Tensor, seed_and_threshold: Tensor) -> Tensor:
        return keys.new_empty(shape, dtype=torch.bool)


def _draw_words(value_count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Return random 64-bit integers, each with the noise of four values; the last one may have some to spare."""
    words = torch.empty((value_count + 3) // 4, dtype=torch.int64, device=device)
    return words.random_(-(2**63), None, generator=generator)


def _mix_in_place(words: Tensor) -> Tensor:
    """Mix the bits of each word, in place."""
    words *= _MULTIPLIER_1
    words ^= words >> 32
    words *= _MULTIPLIER_2
    return words


def attach_noise(model: nn.Module, seed: int) -> NoiseSource | None:
    """Give all noisy layers of a model one source of noise, and return it; None if there are no such layers.

    Args:
        model: Model whose layers are numbered in its own order.
        seed: Seed of the training, 0 to 2³² − 1.
    """
    layers = [module for module in model.modules() if isinstance(module, NoiseLayer) and module.drop_share]
    noise = NoiseSource(seed, len(layers))
    for layer_index, layer in enumerate(layers):
        layer.layer_index, layer.noise = layer_index, noise
    return noise if layers else None


class NoiseLayer(nn.Module):
    """A layer that draws noise.

    Args:
        drop_share: Share to drop, in [0, 1); rounded to 1/65536.
    """

    layer_index: int = 0
    noise: NoiseSource | None = None
    # Set by `NoiseSource.prepare_for_compiler`, so that one compiled graph serves layers with different shares.
    seed_and_threshold: Tensor | None = None
    scale_tensor: Tensor

    def __init__(self, drop_share: float = 0.5) -> None:
        super().__init__()
        self.drop_share, self.drops = drop_share, drop_share > 0.0

    @property
    def active(self) -> bool:
        """Whether the layer changes its input."""
        return self.training and self.drops

    @property
    def threshold(self) -> int:
        """Number above the 16-bit integers of dropped values."""
        return round(self.drop_share * 65536) - 32768

    @property
    def scale(self) -> float:
        """Factor that preserves the mean."""
        return 1.0 / (1.0 - self.drop_share)

    def _draw(self, shape: torch.Size, device: torch.device) -> tuple[Tensor, float | Tensor]:
        """Return a mask of the dropped values, bool, and the factor of the others."""
        if self.noise is not None and self.noise.keys is not None:
            if self.seed_and_threshold is not None and torch.compiler.is_compiling():
                arguments = shape, self.noise.keys, self.seed_and_threshold
                return torch.ops.evo_tune.drop_mask(*arguments), self.scale_tensor
            integers = self.noise.draw_int16(self.layer_index, shape)
        else:
            n = shape.numel()
            integers = _draw_words(n, device).view(torch.int16)[:n].view(shape)
        return integers < self.threshold, self.scale


class Dropout(NoiseLayer):
    """Drops a share of the channels, and scales the others by 1 / (1 − share) to preserve the mean."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.active:
            return input
        dropped, scale = self._draw(input.shape, input.device)
        if input.device.type == "cpu":  # one multiplication is faster here, and a mask of one byte is smaller
            return input * dropped.logical_not_().to(input.dtype).mul_(scale)
        return input.masked_fill(dropped, 0.0) * scale


class DropPath(NoiseLayer):
    """Drops a residual branch for a random share of the samples (stochastic depth, arXiv:1603.09382).

    The others are scaled by 1 / (1 − share) to preserve the mean; in evaluation nothing is dropped.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of x, (batch, …)."""
        if not self.active:
            return x
        dropped, scale = self._draw(torch.Size((len(x), *(1 for _ in x.shape[1:]))), x.device)
        return x.masked_fill(dropped, 0.0) * scale
