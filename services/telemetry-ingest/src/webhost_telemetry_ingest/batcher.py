"""Micro-batches: accepted reports on their way to the stream.

Consumes: accepted facts, one per request. Emits: packets to USAGE, one for each partition with
facts in the batch. Meanwhile the next batch collects.
Guarantees: `add` returns only after the packet was acknowledged as durable; otherwise it raises
Unavailable within a bounded time. Memory is bounded: a full queue refuses at once.
On an unknown outcome: the request is refused, and its retry is recognised by billing.
"""

import asyncio
from dataclasses import dataclass
from time import monotonic

from prometheus_client import Histogram
from webhost_contracts import subjects
from webhost_kit.batching import Batcher
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.packets import in_packets, stored
from webhost_kit.errors import Unavailable
from webhost_kit.process.metrics import MOMENT_S

MAX_WAITING = 5_000

_sizes = Histogram(
    "webhost_ingest_batch_reports",
    "Reports that were published together",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)
_duration = Histogram(
    "webhost_ingest_publish_duration_seconds",
    "Seconds until the stream had made a batch durable, or it failed",
    buckets=MOMENT_S,
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    subject: str
    envelope: bytes
    durable: asyncio.Future[None]


class ReportBatcher:
    """Takes facts from requests and publishes them together."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._batcher = Batcher(
            self._publish,
            name="reports",
            max_waiting=MAX_WAITING,
            wanted=lambda waiting: not waiting.durable.done(),
        )
        self.run = self._batcher.run

    async def add(self, user_id: str, envelope: bytes) -> None:
        """Return when a user's fact is durable. Raises Unavailable when that is not certain."""
        if self._bus.check() is not None:
            raise _unavailable()
        durable = asyncio.get_running_loop().create_future()
        try:
            self._batcher.add(_Waiting(_subject_of(user_id), envelope, durable))
        except asyncio.QueueFull as error:
            raise _unavailable() from error
        await durable

    async def _publish(self, batch: list[_Waiting]) -> None:
        _sizes.observe(len(batch))
        began_s = monotonic()
        packets = in_packets((one, one.subject, one.envelope) for one in batch)
        durable = await stored(self._bus, packets)
        _duration.observe(monotonic() - began_s)
        settled = {id(waiting) for packet in durable for waiting in packet.items}
        for waiting in batch:
            if waiting.durable.done():  # its client has gone away
                continue
            if id(waiting) in settled:
                waiting.durable.set_result(None)
            else:
                waiting.durable.set_exception(_unavailable())


def _subject_of(user_id: str) -> str:
    return subjects.usage_packets(subjects.partition_of(user_id), subjects.TELEMETRY_INGEST)


def _unavailable() -> Unavailable:
    return Unavailable("Telemetry cannot be stored at the moment; try again shortly.")
