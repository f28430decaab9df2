"""HTTP/1.1 connections that are bounded where uvicorn's own are not.

Guarantees: apart from bodies, a connection can make us buffer at most MAX_HEAD_BYTES and one read
of the socket; a longer head, or longer trailers, are answered with 400 and the connection is
closed. A client that reads nothing of its answer for MAX_STALL_S is disconnected.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
MAX_STALL_S = 60.0


class Connection(HttpToolsProtocol):
    """Counts what arrived since the last head, part of a body or message was complete."""

    _kept_bytes = 0
    _stalled: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Wait for the client to take what was written, for a bounded time."""
        super().pause_writing()
        self._stalled = self.loop.call_later(MAX_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue: the client has read something."""
        super().resume_writing()
        self._no_longer_stalled()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        super().connection_lost(exc)
        self._no_longer_stalled()

    def _no_longer_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        self._kept_bytes += len(data)
        super().data_received(data)
        if self._kept_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_headers_complete(self) -> None:
        """Handle the request, its head complete."""
        self._kept_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand over a part of the body."""
        self._kept_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._kept_bytes = 0
        super().on_message_complete()
