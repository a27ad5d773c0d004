"""Measure what limits the speed of a training on a device: products, attention, memory, the cost of a launch.

A result is the best of several rounds, since other programs only make a machine slower. `suited_of` derives
recommendations from the results. This module is independent of models.
"""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from evo_tune.errors import RecipeError
from evo_tune.training.hardware.device import chip, clock_for
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.recipe.hardware.computing import Timings, sizes_for_device


class Sizes(NamedTuple):
    """Sizes to time.

    Args:
        products: Sides of square products.
        widths: Widths of a layer with four times as many outputs; multiples of small and of large powers of two.
        tokens: Tokens in a step, for all but `batches`.
        vocabularies: Output sizes of a head, close to each other.
        width: Width of the head, of attention and of `batches`.
        head_sizes: Sizes of a head; they divide the width of attention, or nearly.
        length: Tokens in a sequence.
        batches: Numbers of tokens in a step.
        memory: Bytes to copy.
        seconds: Approximate time of each round of one measurement.
    """

    products: tuple[int, ...]
    widths: tuple[int, ...]
    tokens: int
    vocabularies: tuple[int, ...]
    width: int
    head_sizes: tuple[int, ...]
    length: int
    batches: tuple[int, ...]
    memory: int
    seconds: float = 0.02


CPU = Sizes(
    products=(64, 128, 256, 512),
    widths=(188, 192, 196, 200, 208, 224, 256),
    tokens=1024,
    vocabularies=(1000, 1004, 1008, 1024),
    width=128,
    head_sizes=(8, 16, 32, 64, 128),
    length=128,
    batches=(16, 64, 256, 1024, 4096),
    memory=2**27,
)
GPU = Sizes(
    products=(256, 512, 1024, 2048, 4096, 8192),
    widths=(1020, 1022, 1024, 1032, 1040, 1056, 1088, 1152),
    tokens=16384,
    vocabularies=(50257, 50264, 50272, 50304, 50432),
    width=1024,
    head_sizes=(16, 32, 64, 128, 256),
    length=1024,
    batches=(64, 256, 1024, 4096, 16384, 65536),
    memory=2**30,
)


def probe_device(device: str = "cpu", sizes: Sizes | None = None) -> Timings:
    """Time a device; this takes some seconds.

    Args:
        device: Device in torch's notation.
        sizes: Sizes to time; None: the default for the kind of device.

    Returns:
        FLOP/s by precision and size, and so on (see `Timings`), without precisions that the device does not support.
    """
    where, sizes = torch.device(device), sizes or (GPU if device.startswith("cuda") else CPU)
    clock = _Clock(where, sizes.seconds)
    with torch.no_grad():
        products = {}
        for name, dtype in _DTYPES.items():
            precision = Precision(name=name)
            with suppress(RecipeError):
                precision.check_device(where)
                if where.type != "cpu" or name != "fp16":  # a CPU's fp16 is for tests only
                    with precision.products():
                        products[name] = clock.speeds({n: _layer(clock, dtype, n, n, n) for n in sizes.products})
        best = max(products, key=lambda name: max(products[name].values()))
        dtype, tokens, width = _DTYPES[best], sizes.tokens, sizes.width
        with Precision(name=best).products():
            number = _ones(clock, torch.float32, 1)
            return Timings(
                device=torch.cuda.get_device_name(where) if where.type == "cuda" else device,
                products=products,
                widths=clock.speeds({n: _layer(clock, dtype, tokens, n, 4 * n) for n in sizes.widths}),
                vocabularies=clock.speeds({n: _layer(clock, dtype, tokens, width, n) for n in sizes.vocabularies}),
                head_sizes=clock.speeds({n: _attention(clock, dtype, sizes, n) for n in sizes.head_sizes}),
                batches=clock.speeds({n: _layer(clock, dtype, n, width, 4 * width) for n in sizes.batches}),
                bandwidth=clock.speeds({0: _copy(clock, sizes.memory)})[0],
                launch=1.0 / clock.speeds({0: (1.0, lambda: number.add_(0.0))})[0],
            )


_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


# Amount of work, and a function that does it.
Work = tuple[float, Callable[[], object]]


class _Clock:
    """Times a device."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self._seconds = device, seconds
        self._now = clock_for(device)

    def speeds(self, works: Mapping[int, Work]) -> dict[int, float]:
        """Return each work per second, the best of five alternating rounds, since a machine's speed varies."""
        calls = {}
        for n, (_, run) in works.items():
            self._round(run, 1)
            calls[n] = max(1, min(1000, int(self._seconds / max(1e-7, self._round(run, 1)))))
        rounds = [{n: self._round(run, calls[n]) for n, (_, run) in works.items()} for _ in range(5)]
        return {n: work * calls[n] / min(times[n] for times in rounds) for n, (work, _) in works.items()}

    def _round(self, run: Callable[[], object], calls: int) -> float:
        self._wait()
        before = self._now()
        for _ in range(calls):
            run()
        self._wait()
        return max(1e-9, self._now() - before)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _ones(clock: _Clock, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.ones(shape, dtype=dtype, device=clock.device)


def _layer(clock: _Clock, dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> Work:
    """Return the FLOPs of a linear layer, and a function that runs it."""
    x, weight = _ones(clock, dtype, rows, inputs), _ones(clock, dtype, outputs, inputs)
    return 2.0 * rows * inputs * outputs, lambda: F.linear(x, weight)


def _attention(clock: _Clock, dtype: torch.dtype, sizes: Sizes, head_size: int) -> Work:
    """Return the FLOPs of causal attention, counting half of the square, and a function that runs it."""
    heads, batch = max(1, sizes.width // head_size), max(1, sizes.tokens // sizes.length)
    q = _ones(clock, dtype, batch, heads, sizes.length, head_size)
    flops = 2.0 * batch * heads * head_size * sizes.length**2
    return flops, lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True)


def _copy(clock: _Clock, size: int) -> Work:
    """Return the bytes that a copy reads and writes, and a function that runs it."""
    source, target = (_ones(clock, torch.uint8, size) for _ in range(2))
    return 2.0 * size, lambda: target.copy_(source)


if __name__ == "__main__":  # prints a device's timings and recommendations as JSON
    torch.set_num_threads(int(sys.argv[2]))
    timings = probe_device(sys.argv[1])
    chip_data = chip(timings.device)
    answer = {"timings": asdict(timings), "suited": asdict(sizes_for_device(timings))}
    print(json.dumps({**answer, "known": chip_data and chip_data._asdict()}))
