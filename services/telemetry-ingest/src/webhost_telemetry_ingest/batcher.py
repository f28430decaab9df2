"""Micro-batches: accepted reports on their way to the stream.

Consumes: accepted facts, one per request. Emits: their messages to USAGE, one batch at a time,
published atomically unless it is small; while a batch is under way, the next one collects.
Guarantees: `add` returns only after the whole batch was acknowledged as durable; otherwise
it raises Unavailable within a bounded time. Memory is bounded: a full queue refuses at once.
On an unknown outcome: the request is refused, and its retry is recognised by billing.
"""

import asyncio
import secrets
from collections import deque
from dataclasses import dataclass

import msgspec
import structlog
from nats.errors import Error as NatsError
from prometheus_client import Histogram
from webhost_contracts import subjects
from webhost_kit.bus import Bus
from webhost_kit.errors import Unavailable

log = structlog.get_logger(__name__)

FEW = 8
"""Up to so many are stored sooner one by one: an atomic batch has a price of its own."""
MOST_IN_BATCH = 500
MOST_WAITING = 5_000
PUBLISH_TIMEOUT_S = 4.0

_sizes = Histogram(
    "webhost_telemetry_batch_size",
    "Reports published together",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)


@dataclass(frozen=True)
class Message:
    """What is published for one accepted report."""

    subject: str
    type_name: str
    body: bytes


class _Acknowledged(msgspec.Struct):
    """The server's answer to a commit."""

    count: int | None = None


class Batcher:
    """Takes messages from requests and publishes them together."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[tuple[Message, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()

    async def add(self, message: Message) -> None:
        """Return when the message is durable. Raises Unavailable when that is not certain."""
        if len(self._waiting) >= MOST_WAITING or self._bus.check() is not None:
            raise _unavailable()
        durable = asyncio.get_running_loop().create_future()
        self._waiting.append((message, durable))
        self._wake.set()
        await durable

    async def run(self) -> None:
        """Publish for ever. A batch that fails fails its requests, not this."""
        while True:
            await self._wake.wait()
            # One turn of the loop: requests that arrived together share the first batch.
            await asyncio.sleep(0)
            size = min(len(self._waiting), MOST_IN_BATCH)
            batch = [self._waiting.popleft() for _ in range(size)]
            if not self._waiting:
                self._wake.clear()
            await self._settle(batch)

    async def _settle(self, batch: list[tuple[Message, asyncio.Future[None]]]) -> None:
        _sizes.observe(len(batch))
        problem = None
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await self._publish([message for message, _ in batch])
        except (NatsError, TimeoutError, OSError, msgspec.DecodeError) as error:
            log.warning("batch not acknowledged", size=len(batch), error=repr(error))
            problem = _unavailable()
        for _, durable in batch:
            if durable.done():  # its client has gone away
                continue
            if problem is None:
                durable.set_result(None)
            else:
                durable.set_exception(problem)

    async def _publish(self, messages: list[Message]) -> None:
        """Return when all of these are stored. Raises on any doubt about any of them."""
        if len(messages) <= FEW:
            await asyncio.gather(*(self._publish_alone(message) for message in messages))
        else:
            await self._publish_atomically(messages)

    async def _publish_alone(self, message: Message) -> None:
        await self._bus.js.publish(
            message.subject,
            message.body,
            timeout=PUBLISH_TIMEOUT_S,
            headers={subjects.TYPE_HEADER: message.type_name},
        )

    async def _publish_atomically(self, messages: list[Message]) -> None:
        batch_id = secrets.token_hex(16)
        client = self._bus.client
        # No message ids: one that the server has seen before would refuse the whole batch.
        for number, message in enumerate(messages[:-1], start=1):
            headers = _headers(message, batch_id, number)
            await client.publish(message.subject, message.body, headers=headers)
        last = messages[-1]
        headers = _headers(last, batch_id, len(messages)) | {"Nats-Batch-Commit": "1"}
        reply = await client.request(
            last.subject, last.body, timeout=PUBLISH_TIMEOUT_S, headers=headers
        )
        answer = msgspec.json.decode(reply.data, type=_Acknowledged)
        if answer.count != len(messages):
            raise NatsError(f"batch refused: {reply.data[:300]!r}")


def _headers(message: Message, batch_id: str, number: int) -> dict[str, str]:
    return {
        subjects.TYPE_HEADER: message.type_name,
        "Nats-Batch-Id": batch_id,
        "Nats-Batch-Sequence": str(number),
    }


def _unavailable() -> Unavailable:
    return Unavailable("Telemetry cannot be stored at the moment; try again shortly.")
