"""How a step's samples come to the device: counted and cut on the host, and there before the step is due.

What fits lives on the device and only the numbers of its rows travel; what does not is pinned, and on its way while the
step before is computed. On a CPU nothing is copied. Knows nothing of models but that one may have no use for padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from evo_tune.training.batch import MicroBatch, onto
from evo_tune.training.hardware.capacity import device_memory
from evo_tune.training.optim.gradient import split
from evo_tune.training.optim.losses import CrossEntropy

if TYPE_CHECKING:
    from evo_tune.training.hardware.distributed import Ranks

__all__ = ["Fed", "Feed", "Source"]

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
