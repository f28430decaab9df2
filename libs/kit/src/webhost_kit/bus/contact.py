"""Whether the server at the other end of a connection is in touch with the rest of its cluster.

A server that only its clients still reach goes on answering them. Of a stream that it led it says
so for ten to twenty seconds more, of any other that nobody leads it, and its consumers send their
heartbeats all the while. What it says shows it all the same: a leader without a majority, or none.

Consumes: what the server says of streams, look by look.
Emits: a move to another server, once nothing was heard from any stream's leader for UNHEARD_S;
where that does not help, the next one later and later.
Guarantees: a leader is believed only while it cannot have been replaced (see LEASE_S).
"""

import asyncio
import math
from time import monotonic

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PeerInfo, StreamInfo
from nats.js.errors import NotFoundError
from prometheus_client import Counter

log = structlog.get_logger(__name__)

LOOK_S = 1.0
ANSWERED_S = 2.0
"""While a stream has no leader nobody answers: who waits for longer finds the next one late."""
LEASE_S = 3.5
"""Nobody votes for another leader within four seconds of the last word from the one that there is.
A leader tells the others that it is there every second."""
UNHEARD_S = 10.0
"""A new leader is chosen in four to nine seconds, which is no reason to leave a server."""
LONGEST_S = 80.0
"""The longest time between two moves."""

_moves = Counter(
    "webhost_bus_moves_total",
    "How often a server of NATS was left for another one, since it was cut off from the rest",
)


def silence_s(info: StreamInfo) -> float:
    """Return for how long the server that says this lacks a majority of the stream's servers.

    Endless, where it knows of no leader.
    """
    if info.cluster is None:
        return 0.0
    if not info.cluster.leader:
        return math.inf
    others = sorted(map(_silence_of, info.cluster.replicas or ()))
    needed = (len(others) + 1) // 2
    return others[needed - 1] if needed else 0.0


def require_led(info: StreamInfo) -> StreamInfo:
    """Return what the server that leads the stream says. Raises NatsError where it is another's."""
    if silence_s(info) > LEASE_S:
        raise NatsError(f"who leads {info.config.name} is not known here")
    return info


class Contact:
    """What one connection has heard from the streams' leaders."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._heard_at: dict[str, float] = {}
        self._is_in_cluster = False
        self._looks_in_vain = 0
        self._moved_at = -math.inf
        self._patience_s = UNHEARD_S

    def expect(self, *streams: str) -> None:
        """Take it that these are led, until it turns out that nothing is heard from who does."""
        for stream in streams:
            self._heard_at.setdefault(stream, monotonic())

    def heard(self, stream: str, info: StreamInfo | None = None) -> None:
        """Take note of what was said of a stream; None, where all agree that it is not there."""
        at = monotonic() - (0.0 if info is None else silence_s(info))
        self._is_in_cluster |= info is not None and info.cluster is not None
        self._heard_at[stream] = max(at, self._heard_at.get(stream, -math.inf))

    def unheard_s(self, stream: str) -> float:
        """Return for how long nothing was heard from who leads the stream; 0 where nobody asks."""
        at = self._heard_at.get(stream)
        return 0.0 if at is None else monotonic() - at

    def problem_with(self, stream: str) -> str | None:
        """Say that nothing is heard from who leads the stream."""
        if self._is_heard(stream):
            return None
        return f"away: nothing heard from who leads {stream} for {self.unheard_s(stream):.0f} s"

    def check(self) -> str | None:
        """Say that nothing is heard from who leads any of the streams."""
        if not self._heard_at or any(map(self._is_heard, self._heard_at)):
            return None
        return "away: the server is cut off from who leads the streams"

    async def look_at(self, js: JetStreamContext, stream: str) -> StreamInfo:
        """Return what is said of the stream, and take note of it.

        Raises NotFoundError, NatsError, TimeoutError.
        """
        try:
            async with asyncio.timeout(ANSWERED_S):
                info = await js.stream_info(stream)
        except NotFoundError:
            self.heard(stream)
            raise
        self.heard(stream, info)
        return info

    async def looked(self) -> None:
        """Move to another server, if this one is of a cluster, and cut off from it.

        Called after each look at the streams. A process that stood still itself looks again.
        """
        if self.check() is None:
            self._looks_in_vain, self._patience_s = 0, UNHEARD_S
            return
        self._looks_in_vain += 1
        if self._looks_in_vain < 2 or monotonic() - self._moved_at < self._patience_s:
            return
        if not self._is_in_cluster or (url := self._client.connected_url) is None:
            return
        log.warning("left a server that is cut off", server=f"{url.hostname}:{url.port}")
        _moves.inc()
        self._moved_at, self._patience_s = monotonic(), min(2 * self._patience_s, LONGEST_S)
        await self._client.force_reconnect()

    async def keep(self, stream: str) -> None:
        """Look at this stream without end, for a connection of which nobody else does."""
        js = self._client.jetstream()
        self.expect(stream)
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look_at(js, stream)
            except (NatsError, TimeoutError, OSError) as error:
                log.debug("stream not seen", stream=stream, error=repr(error))
            await self.looked()

    def _is_heard(self, stream: str) -> bool:
        return self.unheard_s(stream) <= UNHEARD_S


def _silence_of(peer: PeerInfo) -> float:
    """Return how long ago a leader heard from this one, in seconds; endless, where never yet."""
    if not peer.active:
        return 0.0 if peer.current else math.inf
    return peer.active / 1e9
