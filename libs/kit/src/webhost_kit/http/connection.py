"""HTTP/1.1 connections that are bounded where uvicorn's own are not.

Guarantees, for each connection: apart from bodies, it can make us buffer at most MAX_HEAD_BYTES and
one read of the socket; a longer head, or longer trailers, are answered with 400 and the connection
is closed. A request's head arrives within HEAD_S of its first byte, and a connection's first one
within HEAD_S of the connection; its body within `body_s` of the head (BODY_S, where a service does
not say otherwise), and a second more for every BYTES_PER_S bytes that have come. What is late is
answered with 408 where no answer has begun, and its connection is closed. A client that takes
nothing of its answer for MAX_STALL_S is disconnected. A process keeps at most MAX_CONNECTIONS;
those beyond are closed unread.
"""

import asyncio
from typing import ClassVar, cast

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from webhost_kit.errors import InvalidRequest
from webhost_kit.http import problems
from webhost_kit.http.gathered import GatheredWrites

MAX_HEAD_BYTES = 64 * 1024
MAX_CONNECTIONS = 10_000
HEAD_S = 10.0
BODY_S = 30.0
BYTES_PER_S = 32 * 1024
MAX_STALL_S = 30.0

_HEAD = "head"
_BODY = "body"

_ended = Counter(
    "webhost_http_connections_ended_total",
    "Connections of clients that were ended here: they were too slow, or too many",
    ["reason"],
)
# There from the start: of a series that begins with its first event, no increase is seen.
for _reason in ("crowded", "stalled", "slow_head", "slow_body"):
    _ended.labels(_reason)


class Connection(HttpToolsProtocol):
    """Counts what arrived since the last head, part of a body or message was complete."""

    body_s: ClassVar[float] = BODY_S

    _kept_bytes = 0
    _body_bytes = 0
    _due: str | None = None
    """The part of a request that has begun and is not complete."""
    _timed: str | None = None
    """The part whose clock runs."""
    _clock: asyncio.TimerHandle | None = None
    _clock_since = 0.0
    _paused = False
    """Whether nothing was read for a part of that time."""
    _stalled: asyncio.TimerHandle | None = None
    _unwritten = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request, unless there are too many connections."""
        gathered = GatheredWrites(cast(asyncio.Transport, transport))
        super().connection_made(gathered)  # pyright: ignore[reportArgumentType]
        if len(self.connections) > MAX_CONNECTIONS:
            self._end("crowded")
        else:
            self._start_clock(_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        super().connection_lost(exc)
        self._stop_clock()
        self._no_longer_stalled()

    def pause_writing(self) -> None:
        """Wait for the client to take what was written, for a bounded time."""
        super().pause_writing()
        self._unwritten = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(MAX_STALL_S, self._stall)

    def resume_writing(self) -> None:
        """Continue: the client has read something."""
        super().resume_writing()
        self._no_longer_stalled()

    def _stall(self) -> None:
        """Disconnect the client, unless it has taken as much as it may be slow."""
        unwritten = self.transport.get_write_buffer_size()
        if self._unwritten - unwritten < MAX_STALL_S * BYTES_PER_S:
            self._end("stalled")
        else:
            self._unwritten = unwritten
            self._stalled = self.loop.call_later(MAX_STALL_S, self._stall)

    def _no_longer_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        self._kept_bytes += len(data)
        super().data_received(data)
        if self._kept_bytes or self._due is not self._timed:
            self._account()

    def _account(self) -> None:
        """Something has begun that is not complete, or is complete now."""
        if self.transport.is_closing():
            return
        if self._kept_bytes > MAX_HEAD_BYTES:
            self.send_400_response("The request's head is too large.")
            return
        due = self._due or (_HEAD if self._kept_bytes else None)
        if due is not self._timed:
            self._stop_clock()
            if due is not None:
                self._start_clock(due)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._due = _HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Handle the request, its head complete."""
        self._kept_bytes = 0
        self._body_bytes = 0
        self._due = _BODY
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand over a part of the body."""
        self._kept_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)
        self._paused |= self.flow.read_paused

    def on_message_complete(self) -> None:
        """End the request."""
        self._kept_bytes = 0
        self._due = None
        if self._timed is not None:
            self._stop_clock()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Keep nothing of a body that was not read."""
        if not self.pipeline and self.cycle.body:
            self.cycle.body = bytearray()
        super().on_response_complete()

    def _start_clock(self, part: str) -> None:
        self._timed = part
        self._paused = self.flow.read_paused
        self._clock_since = self.loop.time()
        self._clock = self.loop.call_later(HEAD_S if part is _HEAD else self.body_s, self._late)

    def _stop_clock(self) -> None:
        self._timed = None
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        part, cycle = self._timed, self.cycle
        self._stop_clock()
        if self.transport.is_closing():
            return
        answering = cycle is not None and not cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]
        if part is not None and (self._paused or self.flow.read_paused):
            # It is not the client that is late: we did not read, for a part of the time at least.
            self._start_clock(part)
        elif part is _HEAD and answering:
            # The head of a later request; the answer to this one is still to be sent.
            cycle.keep_alive = False
        elif part is _HEAD:
            self._end("slow_head", tell=self._kept_bytes > 0)
        elif (more_s := self._body_time_left()) > 0 and answering:
            self._timed = part
            self._clock = self.loop.call_later(more_s, self._late)
        else:
            self._end("slow_body", tell=answering and not cycle.response_started)

    def _body_time_left(self) -> float:
        allowed_s = self.body_s + self._body_bytes / BYTES_PER_S
        return self._clock_since + allowed_s - self.loop.time()

    def _end(self, reason: str, *, tell: bool = False) -> None:
        _ended.labels(reason).inc()
        if not tell:
            self.transport.abort()
            return
        if self._due is _BODY:
            # Nothing that the app still sends may follow.
            self.cycle.disconnected = True
        self.transport.write(self._too_slow())
        self.transport.close()

    def _too_slow(self) -> bytes:
        problem = InvalidRequest("The request did not arrive in time.", status=408, retryable=True)
        headers = dict(self.headers) if self._due is _BODY else {}
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = problems.request_id_from(asked)
        body = problems.body(problem, request_id)
        return (
            b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (len(body), request_id.encode(), body)
        )
