"""What surrounds a step, so that it waits for no device: batches ahead of it, results behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from evo_tune.training.hardware.device import MicroBatch, onto
from evo_tune.training.hardware.distributed import Ranks
from evo_tune.training.hardware.memory import device_memory
from evo_tune.training.optim.gradient import split
from evo_tune.training.optim.losses import CrossEntropy
from evo_tune.training.optim.optimizer import HiddenMatrices, OptimizerPair
from evo_tune.training.optim.watching import Number

RESIDENT = 0.05
"""Share of a device's memory that what is trained on may take there for good."""


class Source(Protocol):
    """Where batches come from.

    One that knows how many of a step's targets count without looking at them says so by `target_count(step)`; one
    whose data may live on a device has `nbytes`, and is told where by `move_to(device)`.
    """

    def window(self, step: int) -> Sequence[MicroBatch]:
        """Return all micro-batches of a step: a pure function of its number (from 0)."""


class Fed(NamedTuple):
    """A step's samples, on the device.

    Args:
        window: The micro-batches.
        samples: Numbers of each one's samples within the step.
        targets: Counted targets, of all ranks together.
    """

    window: Sequence[MicroBatch]
    samples: Sequence[range]
    targets: int

    def split(self, parts: int) -> Fed:
        """Return the same with each micro-batch cut into up to `parts` smaller ones."""
        if parts == 1:
            return self
        window, samples = [], []
        for micro, numbers in zip(self.window, self.samples, strict=True):
            pieces = split([micro], parts)
            window += pieces
            samples += _ranges(numbers.start, pieces)
        return Fed(window, samples, self.targets)


class Feed:
    """Brings steps to a device.

    Args:
        device: Where.
        ranks: The processes that share each step; each is fed its part.
        shorten: Leaves out of inputs on the host what a model would compute for nothing; None: nothing is.
        count: Returns how many targets count (see `Loss`), where the source does not say it; None: those of classes.
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
        """Return a step's samples; the ones that were prepared, if they are this one's."""
        if source is not self._looked_at:
            self._looked_at, self._next = source, None
            self._settle(source)
        prepared, self._next = self._next, None
        return prepared[1] if prepared is not None and prepared[0] == step else self._fetch(source, step)

    def prepare(self, source: Source, step: int) -> None:
        """Send a step's samples on their way, while the device is busy; a CPU is not, while this runs."""
        if self.device.type != "cpu" and source is self._looked_at:
            self._next = step, self._fetch(source, step)

    def _settle(self, source: Source) -> None:
        """Let a source's data live on the device, where they are little of what it has."""
        move, size = getattr(source, "move_to", None), getattr(source, "nbytes", None)
        if move is None or size is None or self.device.type == "cpu" or self.shorten is not None:
            return
        if self.device.type == "meta" or (self.device.type == "cuda" and size <= RESIDENT * device_memory(self.device)):
            move(self.device)

    def _fetch(self, source: Source, step: int) -> Fed:
        window = source.window(step)
        if self.shorten is not None:
            window = [(self.shorten(inputs), targets) for inputs, targets in window]
        samples = _ranges(0, window)
        if self.ranks is not None:
            # Cut as the samples are, and numbers that follow each other stay together.
            numbers = [(numbers, numbers) for numbers in (torch.arange(s.start, s.stop) for s in samples)]
            shares = self.ranks.share(numbers)
            window = self.ranks.share(window)
            samples = [range(int(share[0]), int(share[0]) + len(share)) for share, _ in shares]
        known = getattr(source, "target_count", None)
        count = known(step) if known is not None else sum(self.count(targets) for _, targets in window)
        if self.ranks is not None and known is None:
            count = int(self.ranks.sum(torch.tensor(count)))
        return Fed([(onto(x, self.device), onto(y, self.device)) for x, y in window], samples, count)


def _ranges(first: int, window: Sequence[MicroBatch]) -> list[range]:
    """Return the numbers of samples that follow each other from `first`, cut as a window is."""
    found = []
    for inputs, _ in window:
        found.append(range(first, first + len(inputs)))
        first += len(inputs)
    return found


LATE = 8
"""Steps that a GPU is given before the host reads what became of the first of them."""


def can_refuse(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer can be told on the device that a step is not to be taken (see `refusing`)."""
    return all(map(_refuses, _each(optimizer)))


class refusing:  # noqa: N801 # reads as what it is: a context
    """Within it an optimizer's step does nothing where `refused` is true, whatever the gradients hold.

    Args:
        optimizer: One of which `can_refuse` is true; others step regardless.
        refused: A bool of no dimensions, on the device; None: the step is taken.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, refused: Tensor | None) -> None:
        self._optimizers = [] if refused is None else list(filter(_refuses, _each(optimizer)))
        self._refused = refused

    def __enter__(self) -> None:
        flag = None if self._refused is None else self._refused.float()
        for one in self._optimizers:  # as torch's GradScaler tells them
            one.grad_scale, one.found_inf = None, flag  # type: ignore[attr-defined]

    def __exit__(self, *error: object) -> None:
        for one in self._optimizers:
            del one.grad_scale, one.found_inf  # type: ignore[attr-defined]


def _each(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    return optimizer.optimizers if isinstance(optimizer, OptimizerPair) else [optimizer]


def _refuses(optimizer: torch.optim.Optimizer) -> bool:
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused or isinstance(optimizer, HiddenMatrices)


def noted(values: Sequence[Number]) -> Callable[[], list[float]]:
    """Have scalars copied to the host when they are there, and return what waits for them and gives them.

    Args:
        values: Numbers, or some of them scalars on a device.
    """
    device = next((value.device for value in values if isinstance(value, Tensor)), None)
    if device is None:
        return lambda: list(values)
    kind: Any = {"dtype": torch.float64, "device": device}
    stacked = torch.stack([v.double() if isinstance(v, Tensor) else torch.full((), v, **kind) for v in values])
    if device.type != "cuda":
        return stacked.tolist
    kept = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
    kept.copy_(stacked, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record()

    def read() -> list[float]:
        there.synchronize()
        found: list[float] = kept.tolist()
        return found

    return read
