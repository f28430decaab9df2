"""One connection to a Worker's host: HTTP/1.1, one request and its response at a time.

Consumes: what the host sends, parsed by llhttp, which is strict. Emits: requests, each written at
once.
Guarantees: a response is what exactly one framing says it is, and ends where that says; one that is
not, has a head of over MAX_HEAD_BYTES and one read of the socket, or breaks off is BrokenOff. At
most READ_BYTES and one read are kept of a body that nobody takes. A connection is good for another
request only if this response was whole, nothing came behind it, and the request was written whole;
what comes unasked ends it.
"""

import asyncio
from typing import Any, cast

import httptools

MAX_HEAD_BYTES = 32 * 1024
READ_BYTES = 16 * 1024
NO_BODY = (204, 304)


class BrokenOff(Exception):
    """There will be no (more of the) response; the message says why."""


class Connection(asyncio.Protocol):
    """`status`, `content_type` and `content_length` are of the response whose head is there."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._body = bytearray()
        self._reading = True
        self._problem: str | None = None
        self._asked = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.content_type = b""
        self.content_length: int | None = None
        self._encoding: bytes | None = None
        self._head_bytes = 0
        self._has_head = False
        self._interim = False
        self._whole = False
        self._keep = False
        self._to_the_end = False

    def send(self, request: bytes) -> None:
        """Write a request, head and body."""
        self._reset()
        self._asked = True
        self._transport.write(request)

    async def head(self) -> None:
        """Return when the response's head is there. Raises BrokenOff."""
        while not self._has_head:
            if self._problem is not None:
                raise BrokenOff(self._problem)
            await self._changed()

    async def read(self) -> bytes:
        """Return what has arrived of the body, empty at its end. Raises BrokenOff.

        May be cancelled and called again.
        """
        while not self._body:
            if self._whole:
                return b""
            if self._problem is not None:
                raise BrokenOff(self._problem)
            await self._changed()
        taken = bytes(self._body)
        self._body.clear()
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        return taken

    def rest(self) -> bool:
        """End the exchange; say whether another one may follow, else close the connection."""
        self._asked = False
        self._body.clear()
        usable = self.usable and self._whole and self._keep and self._reading
        if not usable or self._transport.get_write_buffer_size():
            self.abort()
            return False
        return True

    @property
    def usable(self) -> bool:
        """Say whether both ends are open."""
        return self._problem is None and not self._transport.is_closing()

    def abort(self) -> None:
        """Close the connection at once."""
        self._fail("the connection was closed here")

    async def _changed(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, problem: str) -> None:
        if self._problem is None:
            self._problem = problem
        self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._over_tls = transport.get_extra_info("sslcontext") is not None
        if self._over_tls:
            # What is received and not delivered is lost when the host closes, and beyond our bound.
            cast(Any, self._transport).set_read_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        if not self._asked or self._whole:
            self._fail("something came that was not asked for")
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the response is malformed: {type(error).__name__}")
        if not self._whole and self._head_bytes > MAX_HEAD_BYTES:
            self._fail("the response's head, or what is between parts of its body, is too large")
        elif len(self._body) > READ_BYTES and self._reading and not self._whole:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection for the body's where nothing else says it."""
        if self._to_the_end and exc is None and self._problem is None:
            self._whole = True
        if self._problem is None:
            self._problem = "the connection was closed"
        # It holds this connection: a cycle, which would keep what the body and TLS hold.
        del self._parser
        self._wake()

    # What the parser calls. What follows a whole response is another one, which nobody asked for.

    def on_message_begin(self) -> None:
        """Begin a response, or what comes behind it."""
        self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of the head; trailers are dropped."""
        if self._has_head:
            return
        name = name.lower()
        if name == b"content-type":
            self.content_type = value
        elif name == b"content-length":
            self.content_length = int(value)
        elif name == b"transfer-encoding":
            self._encoding = value if self._encoding is None else b"several"

    def on_headers_complete(self) -> None:
        """Take note of how the response ends."""
        if self._has_head:
            return
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        if self._interim:
            self.content_type, self.content_length, self._encoding = b"", None, None
            return
        chunked = self._encoding is not None and self._encoding.lower() == b"chunked"
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            self._fail("the response is of another version of HTTP")
            return
        if self._encoding is not None and not chunked:
            self._fail("the response has a transfer encoding that is not chunked alone")
            return
        self.status, self._has_head = status, True
        framed = chunked or self.content_length is not None or status in NO_BODY
        # Over TLS an end may be anybody's: it does not say that the response is whole.
        self._to_the_end = not framed and not self._over_tls
        self._keep = framed

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if self._has_head and not self._whole:
            self._head_bytes = 0
            self._body += body

    def on_message_complete(self) -> None:
        """End the response, or one before it."""
        if not self._interim:
            self._whole = True
            self._keep = self._keep and self._parser.should_keep_alive()
