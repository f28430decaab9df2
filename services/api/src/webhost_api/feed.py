"""Agents' events, as they happen, for all clients of this process: one follower that fans out.

Consumes: the rows of `history`, woken when they are committed (by whichever process folded them),
and at least every IDLE_S. Emits: server-sent events, to whoever has a stream open here.
Guarantees: a stream gives an agent's events in the order of their numbers, from the one after the
position it was opened at: none is missing and none comes twice. Where that cannot be (retention
removed one, a restored database does not hold it yet, the position is not one of this agent's), it
says `reset`, and goes on behind the newest. What is new is read once for all streams, and a stream
holds no connection to the database; one whose client reads slowly is not read for until its client
has caught up, so that memory is bounded.
On replay (a reconnect, to whichever replica): from the last number that the client has.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from prometheus_client import Gauge
from webhost_contracts.events import AgentDeleted
from webhost_kit.database.away import is_away
from webhost_kit.database.engine import Database
from webhost_kit.database.notifications import listen
from webhost_kit.errors import RateLimited, Unavailable
from webhost_kit.tasks import run_together

from webhost_api.projection import CHANNEL

log = structlog.get_logger(__name__)

MOST_STREAMS = 1_000
"""In one process."""
LONGEST_S = 3600.0
"""A stream ends after this long at the latest; its client is then authenticated again."""
LONGEST_WITH_KEY_S = 60.0
"""The same for a stream that was opened with an API key, which may have been revoked meanwhile."""
HEARTBEAT_S = 15.0
IDLE_S = 30.0
RETRY_S = 1.0
BATCH = 50
"""The most events of one agent that are read at a time; a stream keeps less than twice as many."""
MOST_NOTICES = 200
"""A stream on which this many notices are waiting ends: its client is too slow for them."""

READY = "ready"
RESET = "reset"
HEARTBEAT = b":\n\n"

_open = Gauge("webhost_api_event_streams", "Streams of agents' events that are open")
_encoder = msgspec.json.Encoder()

# One row at least for each position, so that the newest number comes from the same snapshot.
_BEHIND = sa.text(
    """
    SELECT w.agent_id, w.position, coalesce(a.last_number, 0) AS last_number, h.*
    FROM unnest(CAST(:agents AS text[]), CAST(:positions AS bigint[])) AS w (agent_id, position)
    LEFT JOIN agent_events a ON a.agent_id = w.agent_id
    LEFT JOIN LATERAL (
        SELECT number, event_id, deployment_id, type, at_ms, actor, data FROM history
        WHERE history.agent_id = w.agent_id AND number > w.position
        ORDER BY number LIMIT :batch
    ) h ON true
    ORDER BY w.agent_id, w.position, h.number
    """
)


def frame(name: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    """Return one server-sent event, with its number as the id."""
    id_line = b"" if number is None else b"id: %d\n" % number
    return id_line + b"event: %b\ndata: %b\n\n" % (name.encode(), _encoder.encode(data))


@dataclass
class Found:
    """What was read behind a position: events by number, and the number of the newest."""

    last_number: int
    events: list[tuple[int, str, bytes]] = field(default_factory=list[tuple[int, str, bytes]])

    @property
    def is_full(self) -> bool:
        return len(self.events) == BATCH


class Stream:
    """One client's stream of one agent's events, behind `position`. To be closed."""

    def __init__(self, feed: "Feed", user_id: str, agent_id: str, position: int) -> None:
        self.user_id = user_id
        self.agent_id = agent_id
        self.position = position
        self._feed = feed
        self._frames: deque[bytes] = deque()
        self._notices = 0
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Say whether another batch may be read for it."""
        return not self._ended and len(self._frames) < BATCH

    async def frames(self, first: bytes, until_s: float) -> AsyncGenerator[bytes]:
        """Yield what the client is sent, with heartbeats, until `until_s` (monotonic seconds)."""
        yield first
        while True:
            now_s = monotonic()
            if self._frames:
                if not self.has_room:
                    self._feed.wake()
                taken = b"".join(self._frames)
                self._frames.clear()
                self._notices = 0
                yield taken
            elif self._ended or now_s >= until_s:
                return
            elif not await self._changes(min(HEARTBEAT_S, until_s - now_s)):
                yield HEARTBEAT

    async def _changes(self, timeout_s: float) -> bool:
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def take(self, found: Found) -> None:
        """Append the events behind the position, or say that they are not all there any more."""
        for number, name, event in found.events:
            if number != self.position + 1:
                self._reset(found.last_number)
                return
            self.position = number
            self._append(event)
            if name == AgentDeleted.type_name():
                self.end()
                return
        if not found.is_full and self.position != found.last_number:
            self._reset(found.last_number)

    def _reset(self, last_number: int) -> None:
        self.position = last_number
        self._append(frame(RESET, {"agentId": self.agent_id}, last_number))

    def _append(self, event: bytes) -> None:
        self._frames.append(event)
        self._changed.set()

    def notice(self, event: bytes) -> None:
        """Append what has no number."""
        if self._notices >= MOST_NOTICES:
            self.end()
        elif not self._ended:
            self._notices += 1
            self._append(event)

    def end(self) -> None:
        """End the stream once its client has what is waiting."""
        self._ended = True
        self._changed.set()

    def close(self) -> None:
        """Forget the stream."""
        self._ended = True
        self._feed.closed(self)


class Feed:
    """All streams that are open in this process. `per_user` is how many one user may have."""

    def __init__(self, database: Database, *, per_user: int) -> None:
        self._database = database
        self._per_user = per_user
        self._by_user: Counter[str] = Counter()
        self._streams: dict[str, set[Stream]] = {}
        self._count = 0
        self._wake = asyncio.Event()
        self.users_changed = asyncio.Event()

    @property
    def users(self) -> set[str]:
        """Whose streams are open."""
        return set(self._by_user)

    def open(self, user_id: str, agent_id: str, position: int) -> Stream:
        """Open a stream. Raises RateLimited where the user has too many, or Unavailable."""
        if self._by_user[user_id] >= self._per_user:
            raise RateLimited(
                "event-streams",
                limit=self._per_user,
                window_s=1,
                wait_s=1,
                message=f"You have {self._per_user} event streams open, the most there may be; "
                "close one first.",
            )
        if self._count >= MOST_STREAMS:
            raise Unavailable("Too many event streams are open; try again shortly.")
        stream = Stream(self, user_id, agent_id, position)
        self._streams.setdefault(agent_id, set()).add(stream)
        self._by_user[user_id] += 1
        self._counted(1)
        return stream

    def closed(self, stream: Stream) -> None:
        """Forget a stream; again is once."""
        streams = self._streams.get(stream.agent_id, set())
        if stream not in streams:
            return
        streams.remove(stream)
        if not streams:
            del self._streams[stream.agent_id]
        self._by_user[stream.user_id] -= 1
        if not self._by_user[stream.user_id]:
            del self._by_user[stream.user_id]
        self._counted(-1)

    def _counted(self, change: int) -> None:
        self._count += change
        _open.set(self._count)
        self.wake()
        self.users_changed.set()

    def drain(self) -> None:
        """End every stream; clients go on elsewhere, with the last number that they have."""
        for stream in self._all():
            stream.end()

    def notify(self, user_id: str, agent_id: str, event: bytes) -> None:
        """Give an event without a number to the streams of the user's agent."""
        for stream in self._streams.get(agent_id, ()):
            if stream.user_id == user_id:
                stream.notice(event)

    def wake(self) -> None:
        """Read again: there may be something new, or room for it."""
        self._wake.set()

    async def run(self) -> None:
        """Follow as long as the process lives; a database that is away is waited for."""
        await run_together(self._listen(), self._follow())

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(listen(self._database.dsn, "feed", CHANNEL)) as woken:
                    async for _ in woken:
                        self.wake()
            except Exception as error:
                if not is_away(error):
                    raise
                log.warning("feed does not listen", error=str(error).partition("\n")[0])
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                while await self._deliver():
                    pass
            except Unavailable:
                await asyncio.sleep(RETRY_S)
                self.wake()

    async def _deliver(self) -> bool:
        """Read once for all streams that have room; say whether there is more to read at once."""
        positions = {(one.agent_id, one.position) for one in self._all() if one.has_room}
        if not positions:
            return False
        found = await self._behind(positions)
        for stream in self._all():
            place = stream.agent_id, stream.position
            if stream.has_room and place in found:
                stream.take(found[place])
        return any(one.is_full for one in found.values())

    async def _behind(self, positions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Found]:
        agents, numbers = zip(*positions, strict=True)
        parameters = {"agents": list(agents), "positions": list(numbers), "batch": BATCH}
        found: dict[tuple[str, int], Found] = {}
        async with self._database.transaction() as connection:
            for row in await connection.execute(_BEHIND, parameters):
                one = found.setdefault((row.agent_id, row.position), Found(row.last_number))
                if row.number is not None:
                    one.events.append((row.number, row.type, _event(row)))
        return found

    def _all(self) -> list[Stream]:
        return [stream for streams in self._streams.values() for stream in streams]


def _event(row: sa.Row[Any]) -> bytes:
    data = {
        "id": row.event_id,
        "type": row.type,
        "agentId": row.agent_id,
        "atMs": row.at_ms,
        "actor": row.actor,
        "data": row.data,
    }
    if row.deployment_id is not None:
        data["deploymentId"] = row.deployment_id
    return frame(row.type, data, row.number)
