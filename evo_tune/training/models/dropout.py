"""Dropout whose noise is each sample's own, and drop-path: what is dropped does not depend on who else is in a pass.

A sample's noise is a function of the training's seed, the step, the layer and the sample's number within the step. So
micro-batches of any size, and any number of ranks, drop the same, and a block that is computed again drops what it
dropped before. `Noise` is attached to a model by its trainer; without one the noise is that of torch's generator.

Noise is drawn once a layer and sent through a few multiplications for each sample: 16 bits a channel and sample, in
half the time that torch's dropout takes on a CPU. Knows no model.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from evo_tune.training.hardware.device import seed_for, seeds_for

# Odd numbers with their bits well spread (the first two are splitmix64's, Steele et al. 2014), as int64.
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_STRIDE = 0x9E3779B97F4A7C15 - 2**64


class Noise:
    """Where the noise of a model's layers comes from, one pass after another.

    Args:
        seed: Of the training, 0 to 2³² − 1.
        places: Number of layers that draw.
    """

    def __init__(self, seed: int, places: int) -> None:
        self.seed, self.places = seed, places
        self._step = -1
        self._layers: list[int] = []
        self._keys: Tensor | None = None
        self._samples = range(0)
        self._generator: torch.Generator | None = None

    def begin(self, step: int, samples: range, device: torch.device) -> None:
        """Take note of what is passed through the model next, until `end`; the backward pass belongs to it.

        Args:
            step: Number of the step.
            samples: Numbers of the samples within the step, in order.
            device: Where the model is.
        """
        if step != self._step:
            self._step, self._layers = step, seeds_for(self.seed, "dropout", self.places, step)
        self._samples = samples
        keys = torch.arange(samples.start, samples.stop, dtype=torch.int64, device=device)[:, None]
        # Far apart for numbers that are close, and others in each step.
        self._keys = _mixed(_mixed(keys * _STRIDE + seed_for(self.seed, "samples", step)))
        if self._generator is None or self._generator.device != self._keys.device:
            self._generator = torch.Generator("cpu" if device.type == "meta" else device)

    def end(self) -> None:
        """Forget the pass: what is computed from here on is none of the training."""
        self._keys = None

    def __bool__(self) -> bool:
        """Whether it is in the middle of a pass."""
        return self._keys is not None

    @property
    def samples(self) -> int:
        """Samples in the pass."""
        return len(self._samples)

    def __deepcopy__(self, memo: dict[int, Any]) -> Noise:
        return Noise(self.seed, self.places)  # a copy of a model, its average for one, has no part in the pass

    def lanes(self, place: int, shape: torch.Size, part: int = 0) -> Tensor:
        """Return whole numbers of 16 bits, evenly distributed, int16.

        Those of a sample are the same whatever the number of samples; of a longer one they begin as a shorter one's do.

        Args:
            place: Number of the layer.
            shape: (samples, …), or (samples · n, …) with each sample's n together.
            part: Number of the part, of a layer that draws in several.
        """
        assert self._keys is not None
        samples = len(self._samples)
        each = shape.numel() // samples
        if each * samples != shape.numel():  # a layer that does not see samples one by one
            samples, each = 1, shape.numel()
        return lanes_of(self._words(place, each, part) + self._keys[:samples], each).reshape(shape)

    def unmixed(self, place: int, each: int, part: int = 0) -> Tensor:
        """Return what `lanes_of` makes the noise of, (samples, each / 4), of layers that see samples one by one."""
        assert self._keys is not None
        return self._words(place, each, part) + self._keys

    def _words(self, place: int, each: int, part: int) -> Tensor:
        assert self._keys is not None
        assert self._generator is not None
        self._generator.manual_seed(self._layers[place] + part)
        words = torch.empty(-(-each // 4), dtype=torch.int64, device=self._keys.device)
        return words.random_(-(2**63), None, generator=self._generator)  # four channels' noise in each

    def seeds(self, place: int, part: int = 0) -> list[int]:
        """Return a seed of each sample, for a layer (or a part of one) whose noise torch draws itself."""
        return [seed_for(self.seed, "samples", self._step, place + 1, sample, part) for sample in self._samples]


def lanes_of(words: Tensor, each: int) -> Tensor:
    """Return the noise that lies in words, (…, each), int16; the words are used up.

    Args:
        words: (…, each / 4), rounded up, int64.
        each: Channels of a sample.
    """
    lanes = _mixed(words).view(torch.int16)
    return lanes if each % 4 == 0 else lanes[..., :each]


def _mixed(words: Tensor) -> Tensor:
    """Spread what a word holds over all of its bits, in place."""
    words *= _FIRST
    words ^= words >> 32
    words *= _SECOND
    return words


def attach_noise(model: nn.Module, seed: int) -> Noise | None:
    """Give all layers of a model that draw noise one source of it; None if there are none.

    Args:
        model: Its layers are numbered in its own order.
        seed: Of the training, 0 to 2³² − 1.
    """
    layers = [module for module in model.modules() if isinstance(module, _Noisy) and module.share]
    noise = Noise(seed, len(layers))
    for place, layer in enumerate(layers):
        layer.place, layer.noise = place, noise
    return noise if layers else None


class _Noisy(nn.Module):
    """A layer that draws.

    Args:
        share: What is dropped, 0 up to below 1; on a CPU, and in a training, it is rounded to 1/65536.
    """

    place: int = 0
    part: int = 0  # of a layer that draws several times in a pass: which time this is
    noise: Noise | None = None

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    @property
    def active(self) -> bool:
        """Whether it changes what passes through it."""
        return self.training and self.share > 0.0

    def _dropped(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Draw which are dropped, bool."""
        if self.noise:
            lanes = self.noise.lanes(self.place, shape, self.part)
        else:
            n = shape.numel()
            words = torch.empty(-(-n // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
            lanes = words.view(torch.int16)[:n].view(shape)
        return lanes < self.threshold

    @property
    def threshold(self) -> int:
        """Below which noise drops."""
        return round(self.share * 65536) - 32768

    def extra_repr(self) -> str:
        return f"{self.share}"


@functools.cache
def noise_stays_eager() -> None:
    """Have torch's compiler leave the drawing of noise alone: generators are seeded there, which no graph holds."""
    _Noisy._dropped = torch.compiler.disable(_Noisy._dropped)  # type: ignore[method-assign,no-untyped-call]


class Dropout(_Noisy):
    """Drops a share of the channels, and scales what is kept by 1 / (1 − share), so that the mean stays."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.active:
            return input
        dropped, scale = self._dropped(input.shape, input.device), 1.0 / (1.0 - self.share)
        if input.device.type == "cpu":  # one multiplication is the faster there, and a mask of one byte the smaller
            return input * dropped.logical_not_().to(input.dtype).mul_(scale)
        return input.masked_fill(dropped, 0.0) * scale


class DropPath(_Noisy):
    """Leaves out a residual branch for a random share of the samples (stochastic depth, arXiv:1603.09382).

    What is kept is scaled by 1 / (1 − share), so that the mean stays; in evaluation all is kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of x, (batch, …)."""
        if not self.active:
            return x
        dropped = self._dropped(torch.Size((len(x), *(1 for _ in x.shape[1:]))), x.device)
        return x.masked_fill(dropped, 0.0) * (1.0 / (1.0 - self.share))
