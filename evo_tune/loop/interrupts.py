"""Ctrl-C and SIGTERM while a run is on: the main thread owns them, as a context manager."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """Calls `stop` on the first Ctrl-C, and `kill` on the second or on SIGTERM.

    Outside the main thread (a notebook's worker, a test) it does nothing, as Python allows no handlers
    there.

    Args:
        stop: Begin nothing new.
        kill: Stop at once.
    """

    def __init__(self, stop: Callable[[], None], kill: Callable[[], None]) -> None:
        self._stop = stop
        self._kill = kill
        self._interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's

    def _handle(self, number: int, frame: FrameType | None) -> None:
        act = self._kill if self._interrupted or number == signal.SIGTERM else self._stop
        self._interrupted = True
        # Not in the handler itself: it may have broken into code that holds the very lock.
        threading.Thread(target=act, daemon=True).start()
