"""What billing has charged, watched into memory.

Consumes: the totals bucket, key `<userId>.<period>`.
Guarantees: older totals of a fold never replace newer ones; when the bucket cannot be watched, the
last totals hold. Only those of the current and the previous period are kept.
On replay: the whole bucket is read again, which changes nothing.
"""

import asyncio

import msgspec
import structlog
from webhost_contracts import subjects, wire
from webhost_contracts.periods import period_key, previous_period
from webhost_contracts.totals import Totals
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Recorded, StreamReader
from webhost_kit.clock import now_ms
from webhost_kit.errors import StreamDiverged

log = structlog.get_logger(__name__)

PREFIX = f"$KV.{subjects.TOTALS_BUCKET}."
RETRY_S = 1.0


class TotalsWatch:
    """The totals of this and the previous period, of every user who has any."""

    def __init__(self, bus: Bus) -> None:
        self._reader = StreamReader(bus, subjects.TOTALS_STREAM, [f"{PREFIX}>"])
        self._periods: dict[str, dict[str, Totals]] = {}
        self.loaded = False

    def check(self) -> str | None:
        """Complain until the totals have been read once; from then on the last ones apply."""
        return None if self.loaded else "not loaded"

    def of(self, user_id: str, period_key: str) -> Totals | None:
        """Return what was charged to this user in this period, None for nothing."""
        return self._periods.get(period_key, {}).get(user_id)

    def requests(self, period_key: str) -> list[tuple[str, int]] | None:
        """Return each user's requests in this period, None while the totals are not loaded."""
        if not self.loaded:
            return None
        totals = self._periods.get(period_key, {})
        return [(user_id, t.requests) for user_id, t in totals.items() if t.requests > 0]

    async def run(self) -> None:
        """Watch indefinitely; a bucket that was recreated is read from its start."""
        while True:
            try:
                async for batch in self._reader.batches(None):
                    for message in batch.messages:
                        self._apply(message)
                    self.loaded = self.loaded or batch.pending == 0
            except StreamDiverged as error:
                log.warning("totals bucket was recreated", reason=str(error))
                await asyncio.sleep(RETRY_S)

    def _apply(self, message: Recorded) -> None:
        if not message.body:
            return
        try:
            totals = wire.decode(message.body, Totals)
        except msgspec.DecodeError as error:
            log.error("undecodable totals", subject=message.subject, error=str(error))
            return
        user_id, _, period = message.subject.removeprefix(PREFIX).rpartition(".")
        oldest = previous_period(period_key(now_ms()))
        if period not in self._periods:
            for past in [known for known in self._periods if known < oldest]:
                del self._periods[past]
        if period < oldest:
            return
        known = self._periods.setdefault(period, {})
        if totals.replaces(known.get(user_id)):
            known[user_id] = totals
