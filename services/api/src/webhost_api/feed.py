"""Agents' events, as they happen, for all clients of this process: one reader that fans out.

Consumes: the rows of `history`, woken when they are committed (by whichever process folded them),
and at least every IDLE_S. Emits: server-sent events, to whoever has a stream open here.
Guarantees: what each stream guarantees (see `event_stream`). What is new is read once for all
streams, and a stream holds no connection to the database; one whose client reads slowly is not read
for until its client has caught up, so that memory is bounded. Whether those who watch still may is
looked at for all of them together, after each commit but at most every CHECK_EVERY_S: a stream ends
when its user's account is disabled, or its API key is revoked, replaced or has expired, and when
that could not be looked at for UNCHECKED_S.
On replay (a reconnect, to whichever replica): from the last number that the client has.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any

import sqlalchemy as sa
import structlog
from prometheus_client import Gauge
from webhost_kit.clock import now_ms
from webhost_kit.database.away import is_away
from webhost_kit.database.engine import Database
from webhost_kit.database.notifications import listen
from webhost_kit.errors import RateLimited, Unavailable
from webhost_kit.tasks import run_together

from webhost_api.event_stream import BATCH, Found, Place, Stream, frame
from webhost_api.projection import CHANNEL
from webhost_api.watchers import Watcher, good_until_ms

log = structlog.get_logger(__name__)

MOST_STREAMS = 1_000
"""In one process. One more ends a stream of the user who has most."""
IDLE_S = 30.0
RETRY_S = 1.0
CHECK_EVERY_S = 0.25
UNCHECKED_S = 60.0

_open = Gauge("webhost_api_event_streams", "Streams of agents' events that are open here")

# One row at least for each position, so that the newest number comes from the same snapshot.
_BEHIND = sa.text(
    """
    SELECT w.agent_id, w.position, coalesce(a.last_number, 0) AS last_number,
        l.event_id AS last_event_id, p.event_id AS event_id_here,
        g.deleted_at_ms IS NOT NULL AS is_deleted, h.*
    FROM unnest(CAST(:agents AS text[]), CAST(:positions AS bigint[])) AS w (agent_id, position)
    LEFT JOIN agent_events a ON a.agent_id = w.agent_id
    LEFT JOIN history l ON l.agent_id = w.agent_id AND l.number = a.last_number
    LEFT JOIN history p ON p.agent_id = w.agent_id AND p.number = w.position
    LEFT JOIN agents g ON g.agent_id = w.agent_id
    LEFT JOIN LATERAL (
        SELECT number, event_id, deployment_id, type, at_ms, actor, data FROM history
        WHERE history.agent_id = w.agent_id AND number > w.position
        ORDER BY number LIMIT :batch
    ) h ON true
    ORDER BY w.agent_id, w.position, h.number
    """
)


class Feed:
    """All streams that are open in this process. `per_user` is how many one user may have."""

    def __init__(self, database: Database, *, per_user: int) -> None:
        self._database = database
        self._per_user = per_user
        self._by_user: Counter[str] = Counter()
        self._streams: dict[str, set[Stream]] = {}
        self._count = 0
        self._wake = asyncio.Event()
        self._recheck = asyncio.Event()
        self._checked_s = monotonic()
        self.users_changed = asyncio.Event()

    @property
    def users(self) -> set[str]:
        """Whose streams are open."""
        return set(self._by_user)

    def open(self, watcher: Watcher, agent_id: str, place: Place, until_s: float) -> Stream:
        """Open a stream that ends at `until_s` (monotonic seconds) at the latest.

        Raises RateLimited where the user has too many, or Unavailable where all have and none of
        the others has more.
        """
        if self._by_user[watcher.user_id] >= self._per_user:
            raise RateLimited(
                "event-streams",
                limit=self._per_user,
                window_s=1,
                wait_s=1,
                message=f"You have {self._per_user} event streams open, the most there may be; "
                "close one first.",
            )
        if self._count >= MOST_STREAMS:
            self._make_room_for(watcher.user_id)
        stream = Stream(
            watcher, agent_id, place, until_s, on_room=self._wake.set, on_close=self._closed
        )
        self._streams.setdefault(agent_id, set()).add(stream)
        self._by_user[watcher.user_id] += 1
        self._counted(1)
        return stream

    def _make_room_for(self, user_id: str) -> None:
        """End a stream of the user who has most. Raises Unavailable where nobody has more."""
        most, count = self._by_user.most_common(1)[0]
        if count <= self._by_user[user_id] + 1:
            raise Unavailable("Too many event streams are open; try again shortly.")
        stream = next(one for one in self._all() if one.watcher.user_id == most)
        stream.end()
        stream.close()

    def _closed(self, stream: Stream) -> None:
        streams = self._streams.get(stream.agent_id, set())
        if stream not in streams:
            return
        streams.remove(stream)
        if not streams:
            del self._streams[stream.agent_id]
        user_id = stream.watcher.user_id
        self._by_user[user_id] -= 1
        if not self._by_user[user_id]:
            del self._by_user[user_id]
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
            if stream.watcher.user_id == user_id:
                stream.notice(event)

    def wake(self) -> None:
        """Look again: there may be something new, or something over."""
        self._wake.set()
        self._recheck.set()

    async def run(self) -> None:
        """Follow as long as the process lives; a database that is away is waited for."""
        await run_together(
            self._listen(),
            _whenever(self._wake, self._deliver_all),
            _whenever(self._recheck, self._check),
        )

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

    async def _check(self) -> None:
        """Let the streams end of those who may not watch any more; then rest."""
        if watchers := {stream.watcher for stream in self._all()}:
            try:
                async with self._database.transaction() as connection:
                    until_ms = await good_until_ms(connection, watchers)
            except Unavailable:
                if monotonic() - self._checked_s > UNCHECKED_S:
                    self.drain()
                raise
            for stream in self._all():
                if stream.watcher in until_ms:
                    left_ms = until_ms[stream.watcher] - now_ms()
                    stream.limit(monotonic() + left_ms / 1000)
        self._checked_s = monotonic()
        await asyncio.sleep(CHECK_EVERY_S)

    async def _deliver_all(self) -> None:
        while await self._deliver():
            pass

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
                one = found.setdefault((row.agent_id, row.position), _found(row))
                if row.number is not None:
                    place = Place.behind(row.number, row.event_id)
                    one.events.append((place, row.type, _event(row, place)))
        return found

    def _all(self) -> list[Stream]:
        return [stream for streams in self._streams.values() for stream in streams]


async def _whenever(woken: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Work when woken, and at least every IDLE_S; a database that is away is waited for."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await woken.wait()
        woken.clear()
        try:
            await work()
        except Unavailable:
            await asyncio.sleep(RETRY_S)
            woken.set()


def _found(row: sa.Row[Any]) -> Found:
    last = Place.behind(row.last_number, row.last_event_id)
    return Found(last, row.is_deleted, Place.behind(row.position, row.event_id_here).mark)


def _event(row: sa.Row[Any], place: Place) -> bytes:
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
    return frame(row.type, data, place)
