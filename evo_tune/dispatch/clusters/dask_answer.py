"""What a Dask client is answered, for a thread that may be interrupted at any moment.

`Client.sync` and `Future.result` are not made for that: interrupted, they cancel what may not have begun, and leave a
coroutine that nobody awaits; cancelled, they return a result that they do not have; and the lock of their event may be
left broken. Here the client's own thread asks, whatever becomes of who waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Answer"]


class Answer:
    """An answer to come.

    Args:
        loop: The client's.
        ask: Called in the client's own thread; what it returns is awaited there.
    """

    def __init__(self, loop: Any, ask: Callable[[], Awaitable[Any]]) -> None:
        self._told: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._ask = ask
        loop.add_callback(self._asked)

    async def _asked(self) -> None:
        try:
            self._told.put((await self._ask(), None))
        except BaseException as error:  # one that nobody hears of would have him wait for ever
            self._told.put((None, error))

    def get(self, seconds: float) -> Any:
        """Return the answer, once.

        Raises:
            queue.Empty: It has not come within so many seconds; anything else is what it was ended by.
        """
        told, error = self._told.get(timeout=max(0.0, seconds))
        if error is not None:
            raise error
        return told
