"""HTTP/1.1 connections whose heads are bounded, as uvicorn's own are not.

Guarantees: what a connection can make us keep, bodies aside, is MAX_HEAD_BYTES and one read of
the socket; more of a head, or of trailers, is answered 400, and the connection ends.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024


class Connection(HttpToolsProtocol):
    """Counts what arrived since the last head, part of a body or message was complete."""

    _kept_bytes = 0

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
