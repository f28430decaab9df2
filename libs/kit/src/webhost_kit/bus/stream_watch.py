"""Looks after the declared streams and buckets while the service runs.

Consumes: what is said of each of them by the server that leads it, every POLL_INTERVAL_S; what a
server says that is cut off from the others shows that it is (see `contact`).
Emits: the declaration of one that was missing for MISSING_S, again while that is refused; an alarm
(log, metric and a note beside readiness) for one that is filled to ALARM of its size.
Guarantees: what was deleted is there again within seconds, as another one: the checkpoints that
were taken on the old one diverge, and whoever fills it learns that it has to be filled again.
On repetition (every service does this): making what is there changes nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from time import monotonic

import structlog
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError, ServiceUnavailableError
from prometheus_client import Gauge

from webhost_kit.bus import streams
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.contact import require_led

log = structlog.get_logger(__name__)

POLL_INTERVAL_S = 1.0
MISSING_S = 5.0
"""Longer than own facts take to see that EVENTS is missing: by then no relay publishes to it."""
ALARM = 0.8
"""Of a stream's size. At the whole of it, what is new is refused: whoever publishes it is unready.
"""

_messages = Gauge("webhost_stream_messages", "Messages that a stream or bucket holds", ["stream"])
_bytes = Gauge("webhost_stream_bytes", "Bytes that a stream or bucket holds", ["stream"])
_max_bytes = Gauge(
    "webhost_stream_max_bytes",
    "The size at which a stream or bucket refuses what is new; -1 is without end",
    ["stream"],
)
_filling = Gauge("webhost_stream_filling", "1 while a stream is filled to 80 %", ["stream"])


class StreamWatch:
    """Makes again what was deleted; `needs` are the streams that readiness depends on."""

    def __init__(self, bus: Bus, needs: Sequence[str]) -> None:
        self._bus = bus
        self._needs = needs
        bus.contact.expect(*needs)
        self._missing_since: dict[str, float] = {}
        self._refusals: dict[str, str] = {}
        self._created_at: dict[str, str] = {}
        self._times_new: Counter[str] = Counter()
        self._filling: dict[str, str] = {}

    def check(self) -> str | None:
        """Say which needed streams nothing is heard from, or are missing and cannot be made."""
        unheard = [self._bus.contact.problem_with(name) for name in self._needs]
        missing = [
            f"{name} is missing" + (f": {self._refusals[name]}" if name in self._refusals else "")
            for name in self._needs
            if name in self._missing_since
        ]
        return "; ".join([*filter(None, unheard), *missing]) or None

    def note(self) -> str | None:
        """Say which streams are about to be full."""
        return "; ".join(self._filling[name] for name in sorted(self._filling)) or None

    def created_at(self, name: str) -> str | None:
        """Say since when the stream is there, as of the last look: a new one is another one."""
        return self._created_at.get(name)

    def times_new(self, name: str) -> int:
        """Return how often the stream was seen to be another one than before, or missing."""
        return self._times_new[name]

    async def run(self) -> None:
        """Look without end."""
        while True:
            await asyncio.gather(*map(self._look_at, streams.NAMES))
            await self._bus.contact.looked()
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _look_at(self, name: str) -> None:
        try:
            info = require_led(await self._bus.contact.look_at(self._bus.js, name))
        except NotFoundError:
            await self._miss(name)
        except (NatsError, TimeoutError, OSError) as error:
            if name in self._needs or not _is_others(error):
                log.warning("stream not seen", stream=name, error=repr(error))
        else:
            created_at = str(info.created)
            was_missing = self._missing_since.pop(name, None) is not None
            if was_missing or self._created_at.get(name, created_at) != created_at:
                self._times_new[name] += 1
            self._created_at[name] = created_at
            self._refusals.pop(name, None)
            self._measure(name, info)

    def _measure(self, name: str, info: StreamInfo) -> None:
        held, most = info.state.bytes, info.config.max_bytes or -1
        _messages.labels(name).set(info.state.messages)
        _bytes.labels(name).set(held)
        _max_bytes.labels(name).set(most)
        fills = 0 < most * ALARM <= held
        _filling.labels(name).set(fills)
        if fills:
            if name not in self._filling:
                log.error("stream fills up", stream=name, bytes=held, max_bytes=most)
            self._filling[name] = f"{name} is {held / most:.0%} full"
        elif self._filling.pop(name, None) is not None:
            log.info("stream has room again", stream=name, bytes=held, max_bytes=most)

    async def _miss(self, name: str) -> None:
        if name not in self._missing_since:
            log.error("stream is missing", stream=name)
        since = self._missing_since.setdefault(name, monotonic())
        if monotonic() - since < MISSING_S:
            return
        try:
            await streams.make(self._bus.js, name, self._bus.replicas)
        except (NatsError, TimeoutError, OSError) as error:
            if _is_others(error):
                self._refusals[name] = "another service makes it"
            else:
                self._refusals[name] = str(error) or type(error).__name__
                log.error("stream cannot be made", stream=name, error=repr(error))
        else:
            log.warning("stream made again", stream=name)


def _is_others(error: Exception) -> bool:
    return isinstance(error, ServiceUnavailableError) and streams.is_others(error)
