"""Micro-batches: accepted reports on their way to the stream.

Consumes: accepted facts, one per request. Emits: their messages to USAGE, one batch at a time,
published atomically unless it is small; while a batch is under way, the next one collects.
Guarantees: `add` returns only after the whole batch was acknowledged as durable; otherwise
it raises Unavailable within a bounded time. Memory is bounded: a full queue refuses at once.
On an unknown outcome: the request is refused, and its retry is recognised by billing.
"""

import asyncio
from collections import deque

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Histogram
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import Message, publish_together
from webhost_kit.errors import Unavailable

log = structlog.get_logger(__name__)

MOST_IN_BATCH = 500
MOST_WAITING = 5_000

_sizes = Histogram(
    "webhost_telemetry_batch_size",
    "Reports published together",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)


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
            await publish_together(self._bus, [message for message, _ in batch])
        except (NatsError, TimeoutError, OSError) as error:
            log.warning("batch not acknowledged", size=len(batch), error=repr(error))
            problem = _unavailable()
        for _, durable in batch:
            if durable.done():  # its client has gone away
                continue
            if problem is None:
                durable.set_result(None)
            else:
                durable.set_exception(problem)


def _unavailable() -> Unavailable:
    return Unavailable("Telemetry cannot be stored at the moment; try again shortly.")
