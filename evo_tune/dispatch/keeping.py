"""What a worker keeps of memory from one evaluation to the next, and when it keeps too much to go on.

Not all that stays is a leak: data are read once, and torch keeps code for each shape that it has met, half a gigabyte
after some dozens of models. Only a worker that is far above its first evaluation and goes on growing is too large.
Runs inside of the worker; knows of torch only what an evaluator that imported it needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys

__all__ = ["Keeping", "Level"]

ALLOWED = 2**30
"""Bytes by which a worker may have grown since its first evaluation."""

TIMES = 3
"""Evaluations that must have added to it beyond that: what one or two have left may be a cache."""

STEP = 4 * 2**20
"""Bytes that count as having added: less is the allocator's own."""


class Level:
    """How a figure of memory develops over a worker's evaluations."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._highest = 0
        self._times = 0

    def is_high(self, bytes: int) -> bool:
        """Whether a figure is to be looked at closely: the first, by which others are judged, or one far above it."""
        return self._first is None or bytes > self._first + ALLOWED

    def note(self, bytes: int) -> int:
        """Note what is kept after an evaluation; return by how much that is too much, 0 if it is not."""
        if self._first is None:
            self._first = bytes
        if bytes <= self._first + ALLOWED:
            return 0
        if bytes > self._highest + STEP:
            self._times += 1
            self._highest = bytes
        return bytes - self._first if self._times >= TIMES else 0


class Keeping:
    """What this process keeps, in its own memory and on its GPU."""

    def __init__(self) -> None:
        self._own, self._gpu = Level(), Level()

    def after_evaluation(self) -> int:
        """Return by how many bytes this process keeps more than it should; 0 where it does not."""
        own = _own_memory()
        if own is not None and self._own.is_high(own):
            gc.collect()
            _give_back()
            own = _own_memory()
        return max(self._own.note(own or 0), self._gpu.note(_gpu_memory()))


def _own_memory() -> int | None:
    """Return the bytes of memory that this process has to itself; None where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared = map(int, file.read().split()[:3])
    except (OSError, ValueError):
        return None
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    """Have the allocator give back to the system what was freed: it may keep gigabytes for the next training."""
    with contextlib.suppress(OSError, AttributeError):  # musl and macOS have no such call
        ctypes.CDLL(None).malloc_trim(0)


def _gpu_memory() -> int:
    """Return the bytes that torch's tensors take on the GPU."""
    torch = sys.modules.get("torch")
    if not hasattr(torch, "cuda") or not torch.cuda.is_initialized():  # type: ignore[union-attr]
        return 0
    return int(torch.cuda.memory_allocated())  # type: ignore[union-attr]
