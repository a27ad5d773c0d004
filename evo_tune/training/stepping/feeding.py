"""Prefetch batches and read results late, so that no step waits for the device."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from evo_tune.training.hardware.device import MicroBatch, device_memory, onto
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.optim.losses import CrossEntropy
from evo_tune.training.optim.optimizer import HiddenMatrices, OptimizerPair
from evo_tune.training.optim.watching import Number

# Largest share of a device's memory for training data that stays there.
RESIDENT = 0.05


class Source(Protocol):
    """Source of batches.

    Optional methods: `target_count(step)` returns a step's number of counted targets without reading its data. A source
    whose data may stay on a device has `nbytes` and `move_to(device)`.
    """

    def window(self, step: int) -> Sequence[MicroBatch]:
        """Return all micro-batches of a step, as a pure function of its number (from 0)."""


class Fed(NamedTuple):
    """Samples of a step, on the device.

    Args:
        window: The micro-batches.
        samples: Sample numbers of each micro-batch within the step.
        targets: Number of counted targets over all ranks.
    """

    window: Sequence[MicroBatch]
    samples: Sequence[range]
    targets: int

    def split(self, parts: int) -> "Fed":
        """Return the same step with each micro-batch cut into up to `parts` smaller ones."""
        if parts == 1:
            return self
        window, samples = [], []
        for micro, numbers in zip(self.window, self.samples, strict=True):
            pieces = list(zip(*(part.chunk(parts) for part in micro), strict=True))
            window += pieces
            samples += _ranges(numbers.start, pieces)
        return Fed(window, samples, self.targets)


class Feed:
    """Moves steps to a device.

    Args:
        device: Target device.
        ranks: Processes that share each step; each gets its part.
        shorten: Function that removes unneeded inputs, such as padding, on the host; None: keep all inputs.
        count: Function that counts targets (see `Loss`) if the source does not; None: counts class targets.
    """

    def __init__(
        self,
        device: torch.device,
        ranks: Ranks | None = None,
        shorten: Callable[[Tensor], Tensor] | None = None,
        count: Callable[[Tensor], int] | None = None,
    ) -> None:
        self.device, self.ranks, self.shorten, self.count = device, ranks, shorten, count or CrossEntropy().count
        self._looked_at: Source | None = None
        self._next: tuple[int, Fed] | None = None

    def __call__(self, source: Source, step: int) -> Fed:
        """Return a step's samples, prefetched if `prepare` was called for this step."""
        if source is not self._looked_at:
            self._looked_at, self._next = source, None
            kind, move, size = self.device.type, getattr(source, "move_to", None), getattr(source, "nbytes", None)
            if size is not None and move is not None and self.shorten is None:  # None: the data stay on the CPU
                is_small = kind == "cuda" and size <= RESIDENT * device_memory(self.device)
                if is_small or kind == "meta":
                    move(self.device)
        prepared, self._next = self._next, None
        return prepared[1] if prepared is not None and prepared[0] == step else self._fetch(source, step)

    def prepare(self, source: Source, step: int) -> None:
        """Start to move a step's samples while the device is busy; on a CPU, which is not, do nothing."""
        if self.device.type != "cpu" and source is self._looked_at:
            self._next = step, self._fetch(source, step)

    def _fetch(self, source: Source, step: int) -> Fed:
        window = source.window(step)
        if self.shorten is not None:
            window = [(self.shorten(inputs), targets) for inputs, targets in window]
        samples = _ranges(0, window)
        if self.ranks is not None:
            # Cut the numbers as the samples are cut; consecutive numbers stay together.
            numbers = [(numbers, numbers) for numbers in (torch.arange(s.start, s.stop) for s in samples)]
            shares = self.ranks.share(numbers)
            window = self.ranks.share(window)
            samples = [range(int(share[0]), int(share[0]) + len(share)) for share, _ in shares]
        count_of = getattr(source, "target_count", None)
        count = count_of(step) if count_of is not None else sum(self.count(targets) for _, targets in window)
        if self.ranks is not None and count_of is None:
            count = int(self.ranks.sum(torch.tensor(count)))
        return Fed([(onto(x, self.device), onto(y, self.device)) for x, y in window], samples, count)


def _ranges(first: int, window: Sequence[MicroBatch]) -> list[range]:
    """Return consecutive sample numbers from `first`, cut into the micro-batches of a window."""
    ranges = []
    for inputs, _ in window:
        ranges.append(range(first, first + len(inputs)))
        first += len(inputs)
    return ranges


# Number of steps that a GPU is given before the host reads the verdict of the first.
STEPS_AHEAD = 8


def can_refuse(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer can skip a step by a flag on the device (see `step_unless`)."""
    return all(map(_refuses, _each(optimizer)))


def step_unless(refused: Tensor | None, optimizer: torch.optim.Optimizer) -> None:
    """Take an optimizer's step, or skip it if `refused` is true, even if gradients are not finite.

    Args:
        refused: Bool tensor without dimensions, on the device; None: the step is taken.
        optimizer: Optimizer for which `can_refuse` is true; others take the step regardless.
    """
    optimizers = [] if refused is None else list(filter(_refuses, _each(optimizer)))
    flag = None if refused is None else refused.float()
    for part in optimizers:  # the attributes that torch's GradScaler sets
        part.grad_scale, part.found_inf = None, flag  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        for part in optimizers:
            del part.grad_scale, part.found_inf  # type: ignore[attr-defined]


def _each(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    return optimizer.optimizers if isinstance(optimizer, OptimizerPair) else [optimizer]


def _refuses(optimizer: torch.optim.Optimizer) -> bool:
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused or isinstance(optimizer, HiddenMatrices)


def copy_to_host_async(values: Sequence[Number]) -> Callable[[], list[float]]:
    """Start to copy scalars to the host, and return a function that waits for them and returns them.

    Args:
        values: Numbers, or scalar tensors on a device.
    """
    device = next((value.device for value in values if isinstance(value, Tensor)), None)
    if device is None:
        return lambda: list(values)
    kind: Any = {"dtype": torch.float64, "device": device}
    stacked = torch.stack([v.double() if isinstance(v, Tensor) else torch.full((), v, **kind) for v in values])
    if device.type != "cuda":
        return stacked.tolist
    pinned = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
    pinned.copy_(stacked, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return list(pinned.tolist())

    return read
