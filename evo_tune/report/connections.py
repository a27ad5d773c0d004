"""Connections of `evo-tune watch`: any program of this machine may open them, so they are few, and idle ones end."""

import asyncio
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

# Most open connections; a browser has at most six.
MOST = 64

# Seconds until a request must have come in full.
SECONDS = 10.0


class BoundedConnection(H11Protocol):
    """A connection that ends unless its request comes in time, and when newer ones need its place."""

    opened = 0.0

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.opened = time.monotonic()
        self._end_later()
        waiting = [other for other in self.connections if not getattr(other, "is_answering", True)]
        if len(self.connections) > MOST and len(waiting) > 1:
            oldest = min(waiting, key=lambda other: getattr(other, "opened", 0.0))
            self.connections.discard(oldest)  # it is counted no longer, although it closes a moment later
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_answering:  # a part of a request
            self._end_later()

    def _end_later(self) -> None:
        if self.timeout_keep_alive_task is None:
            wait = max(0.0, self.opened + SECONDS - time.monotonic()) if self.cycle is None else SECONDS
            self.timeout_keep_alive_task = self.loop.call_later(wait, self.transport.abort)
