"""Publishes the facts that this gateway recorded, or adopted from a dead one.

Consumes: its own rows of the usage outbox. Emits: packets of `invocation.finished.v1` to USAGE.
Hot path: its statements are raw SQL, named at the end of the file.
Guarantees: at least once; a row is deleted only when the stream holds its facts. No order: a usage
fact needs none.
On replay (a crash between publish and delete): the facts are published again; billing deduplicates
by invocation.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from prometheus_client import Counter
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.packets import Packet, in_packets, stored
from webhost_kit.bus.publishing import Message
from webhost_kit.clock import now_ms
from webhost_kit.database.statements import Statements
from webhost_kit.errors import Unavailable
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.process.metrics import ReadGauge

from webhost_gateway.ledger.lease import Lease

ROWS = 500
LINGER_S = 0.05
"""How long to wait, so that facts recorded together share packets."""
RETRY_S = 0.5
POLL_INTERVAL_S = 5.0
DRAIN_S = 5.0
FROM_START_S = 30.0
"""Interval between scans of all rows. Other scans skip deleted rows that a long snapshot keeps."""

_published = Counter(
    "webhost_gateway_usage_rows_published_total", "Rows of usage that the stream acknowledged"
)
_waiting = ReadGauge(
    "webhost_gateway_usage_rows_waiting",
    f"Rows of usage that the stream has not acknowledged, as of the last look, of {ROWS} at most",
)
_oldest = ReadGauge(
    "webhost_gateway_usage_oldest_age_seconds",
    "Age of the oldest usage that the stream has not acknowledged, 0 where nothing waits",
)


class UsageRelay:
    """Publishes for as long as it runs."""

    def __init__(self, statements: Statements, bus: Bus, lease: Lease) -> None:
        self._statements = statements
        self._bus = bus
        self._lease = lease
        self._wake = asyncio.Event()
        self._gateway_id = ""
        self._passed = 0
        self._from_start_at = -FROM_START_S
        self._problem: str | None = "starting"
        self._waiting = 0
        self._oldest_ms: int | None = None
        _waiting.read(lambda: self._waiting)
        _oldest.read(self._age_s)

    def check(self) -> str | None:
        """Say what keeps the facts from being published."""
        return self._problem

    def wake(self) -> None:
        """Take note that there are rows to publish."""
        self._wake.set()

    def wake_from_start(self) -> None:
        """Take note that there may be rows to publish that are older than those seen."""
        self._from_start_at = -FROM_START_S
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled; a broken dependency is waited for."""
        while True:
            self._wake.clear()
            if await self._publish_waiting():
                await asyncio.sleep(LINGER_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._wake.wait()
            await asyncio.sleep(LINGER_S)

    async def close(self) -> None:
        """Publish what is pending, at shutdown. Another gateway adopts what is left."""
        self.wake_from_start()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while await self._publish_waiting():
                    pass

    async def _publish_waiting(self) -> bool:
        """Publish a batch of rows; say whether there may be more to do at once."""
        try:
            rows, oldest_ms = await self._rows()
            self._waiting, self._oldest_ms = len(rows), oldest_ms
            durable = await stored(self._bus, in_packets(rows), message_of)
            serials = [serial for packet in durable for serial in packet.items]
            if serials:
                crash_point("relay.published")
                deleted = {"gateway_id": self._gateway_id, "serials": serials}
                await self._statements.execute((DELETE, deleted))
                _published.inc(len(serials))
                self._waiting -= len(serials)
        except Unavailable:
            self._problem = "database away"
            await asyncio.sleep(RETRY_S)
            return True
        if len(serials) < len(rows):
            self._problem = "bus away: publish not acknowledged"
            await asyncio.sleep(RETRY_S)
            return True
        self._problem = self._oldest_ms = None
        if rows:
            self._passed = rows[-1][0]
        return len(rows) == ROWS

    def _age_s(self) -> float:
        return 0.0 if self._oldest_ms is None else max(now_ms() - self._oldest_ms, 0) / 1000

    async def _rows(self) -> tuple[Sequence[tuple[int, str, bytes]], int | None]:
        """Return what waits, and the time of the oldest."""
        gateway_id = self._lease.gateway_id
        if gateway_id != self._gateway_id:
            names = {"gateway_id": self._gateway_id, "own": gateway_id}
            await self._statements.execute((ADOPT, names))
            self._gateway_id = gateway_id
            self.wake_from_start()
        if monotonic() - self._from_start_at >= FROM_START_S:
            self._passed, self._from_start_at = 0, monotonic()
        parameters = {"gateway_id": gateway_id, "passed": self._passed, "most": ROWS}
        rows = await self._statements.execute((WAITING, parameters))
        oldest_ms = rows[0][3] if rows else None
        return [(serial, subject, body.encode()) for serial, subject, body, _ in rows], oldest_ms


def message_of(packet: Packet[int]) -> Message:
    """Return what is published; the same facts have the same message id."""
    message = packet.message()
    digest = hashlib.blake2b(message.body, digest_size=16).hexdigest()
    return replace(message, message_id=f"pkt_{digest}")


WAITING = """
SELECT serial, subject, body, oldest_ms FROM usage_outbox
WHERE gateway_id = %(gateway_id)s AND serial > %(passed)s
ORDER BY serial LIMIT %(most)s
"""
DELETE = """
DELETE FROM usage_outbox WHERE gateway_id = %(gateway_id)s AND serial = ANY(%(serials)s)
"""
ADOPT = "UPDATE usage_outbox SET gateway_id = %(own)s WHERE gateway_id = %(gateway_id)s"
