"""A Worker's answer, passed on to the client event by event.

Emits: `meta` first, `delta`s, `usage` at most once, then `done`; events that arrive together are
sent together, and none waits for the next.
Guarantees: nothing of the Worker's stream passes unchecked; RuntimeFailed if it does not follow
invoke/v1. While the Worker is silent, the client gets heartbeats.
"""

import asyncio
from typing import Any

import msgspec
from webhost_contracts.invoke import InvokeResponse, Usage
from webhost_kit.errors import RuntimeFailed
from webhost_kit.http import problems

from webhost_gateway.flow_control import FlowControl
from webhost_gateway.ledger.recording import Recording
from webhost_gateway.request import Request
from webhost_gateway.upstream import sse
from webhost_gateway.upstream.failures import UNREADABLE, WorkerProblemBody
from webhost_gateway.upstream.sse import SseEvent, SseReader, SseWriter
from webhost_gateway.upstream.worker import Answer

END_S = 1.0
"""How long the Worker's stream may take to end after `done`, before its connection is cut."""

LARGE_BYTES = 16 * 1024
"""Of events of this size, nothing is read from the Worker before the client has taken them."""

HEADERS = [
    (b"content-type", sse.CONTENT_TYPE.encode()),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    session_id: str


class _Delta(msgspec.Struct, frozen=True):
    text: str


class ClientStream:
    """The client's side of one stream. `meta` is the gateway's own, the session id aside.

    What passes is added to the recording, if there is one, heartbeats aside. `usage` is what the
    Worker told of it.
    """

    def __init__(
        self,
        request: Request,
        meta: dict[str, Any],
        heartbeat_s: float,
        flow: FlowControl,
        recording: Recording | None,
    ) -> None:
        self._request = request
        self._recording = recording
        self._flow = flow
        self._meta = meta
        self._heartbeat_s = heartbeat_s
        self._reader = SseReader()
        self._writer = SseWriter()
        self.usage: Usage | None = None
        self._done = False
        self._sent_at = 0.0

    @property
    def session_id(self) -> str | None:
        """Return the session of the call, once it is known."""
        return self._meta.get("sessionId")

    async def pass_on(self, answer: Answer) -> None:
        """Send the Worker's answer up to and including `done`. Raises RuntimeFailed."""
        if not answer.streamed:
            await self._emulate(answer)
            return
        while not self._done:
            await self._forward(await self._next_chunk(answer), answer)
        await _until_end(answer)

    async def fail(self, problem: RuntimeFailed) -> None:
        """Send the `error` event, which ends the stream."""
        self._flow.hold_up()
        envelope = problems.envelope(problem, self._request.request_id)
        event = self._writer.event("error", envelope)
        self._record(event, is_last=True)
        await self._request.write(event)

    async def end(self) -> None:
        """End the response; returns when its client has taken it, or was given up."""
        self._flow.hold_up()
        await self._request.write(b"", more=False)

    async def _forward(self, chunk: bytes, answer: Answer) -> None:
        """Send what these bytes make, before they are found to be the stream's failure too."""
        if not chunk:
            raise answer.invalid("The agent's stream ended before it was done.")
        ready = bytearray()
        try:
            for event in self._reader.feed(chunk):
                ready += self._translated(event, answer)
        finally:
            # While the client is waited for, this is kept once.
            events = bytes(ready)
            del chunk, ready
            self._record(events, is_last=self._done)
            await self._send(events)
        answer.passed_on(self._reader.pending)

    async def _emulate(self, answer: Answer) -> None:
        events = self._emulated(await answer.document())
        self._record(events, is_last=True)
        await self._send(events)

    def _emulated(self, document: InvokeResponse) -> bytes:
        self._meta["sessionId"] = document.session_id
        self.usage = document.usage
        events = [
            self._writer.event("meta", self._meta),
            self._writer.event("delta", document.output),
        ]
        if document.usage != Usage():
            events.append(self._writer.event("usage", document.usage))
        events.append(self._writer.event("done", {}))
        return b"".join(events)

    def _translated(self, event: SseEvent, answer: Answer) -> bytes:
        """Return what the client gets for one event of the Worker's."""
        if self._done:
            return b""
        try:
            if event.name == "error":
                raise answer.reported(msgspec.json.decode(event.data, type=WorkerProblemBody))
            if "sessionId" not in self._meta:
                if event.name != "meta":
                    raise answer.invalid("The agent's stream does not begin with meta.")
                session_id = msgspec.json.decode(event.data, type=_Meta).session_id
                self._meta["sessionId"] = session_id
                return self._writer.event("meta", self._meta)
            if event.name == "delta":
                return self._writer.event("delta", msgspec.json.decode(event.data, type=_Delta))
            if event.name == "usage" and self.usage is None:
                self.usage = msgspec.json.decode(event.data, type=Usage)
                return self._writer.event("usage", self.usage)
        except UNREADABLE as error:
            message = f"The agent's stream has a malformed {event.name} event."
            raise answer.invalid(message, event.data) from error
        if event.name != "done":
            return b""
        self._done = True
        return self._writer.event("done", {})

    async def _next_chunk(self, answer: Answer) -> bytes:
        if not self._request.started:
            return await answer.next_chunk()
        while True:
            heartbeat = asyncio.timeout_at(self._sent_at + self._heartbeat_s)
            try:
                async with heartbeat:
                    return await answer.next_chunk()
            except TimeoutError:
                if not heartbeat.expired():
                    raise
                await self._send(sse.HEARTBEAT)

    def _record(self, events: bytes, *, is_last: bool) -> None:
        if self._recording is not None:
            self._recording.add(events)
            if is_last:
                self._recording.end(200, sse.CONTENT_TYPE)

    async def _send(self, events: bytes) -> None:
        if not events:
            return
        self._flow.hold_up()
        if not self._request.started:
            await self._request.start(200, HEADERS)
        await self._request.write(events)
        if len(events) > LARGE_BYTES:
            # An empty part is written once the client has taken most of those before it.
            await self._request.write(b"")
        self._flow.go_on()
        self._sent_at = asyncio.get_running_loop().time()


async def _until_end(answer: Answer) -> None:
    """Let the Worker end its stream, so that the connection can be kept."""
    try:
        async with asyncio.timeout(END_S):
            while await answer.next_chunk():
                pass
    except (TimeoutError, RuntimeFailed):
        return
