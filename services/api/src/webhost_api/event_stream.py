"""One client's stream of an agent's events: what waits for it, and until when it goes on.

Guarantees: events are given in the order of their numbers, from the one behind the position that
the stream was opened at: none is missing and none comes twice. Where that cannot be (retention
removed one, a restored database does not hold it yet or has another one in its place, the position
is not one of this agent's), it says `reset`, and goes on behind the newest. Nothing is sent once
its time is over, whatever waits.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple, Self

import msgspec
from webhost_contracts.events import AgentDeleted

from webhost_api.watchers import Watcher

HEARTBEAT_S = 15.0
BATCH = 50
"""The most events of one agent that are read at a time; a stream keeps less than twice as many."""
MOST_NOTICES = 200
"""A stream on which this many notices are waiting ends: its client is too slow for them."""

READY = "ready"
RESET = "reset"
HEARTBEAT = b":\n\n"

ID_PATTERN = "[0-9]{1,15}(-[0-9a-z]{8})?"

_encoder = msgspec.json.Encoder()


class Place(NamedTuple):
    """Where in an agent's events a stream stands: behind the one of this number.

    The mark is a part of that event's id, where it is known: after a restore, another event may
    have the number.
    """

    number: int
    mark: str = ""

    @classmethod
    def behind(cls, number: int, event_id: str | None) -> Self:
        """Return the place behind this event; its id is None where it is no longer there."""
        return cls(number, event_id[-8:] if event_id else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the place that `str` has written. Raises ValueError."""
        if re.fullmatch(ID_PATTERN, text) is None:
            raise ValueError(text)
        number, _, mark = text.partition("-")
        return cls(int(number), mark)

    def __str__(self) -> str:
        return f"{self.number}-{self.mark}" if self.mark else f"{self.number}"


def frame(name: str, data: Mapping[str, Any], place: Place | None = None) -> bytes:
    """Return one server-sent event, with its place as the id."""
    id_line = b"" if place is None else b"id: %b\n" % str(place).encode()
    return id_line + b"event: %b\ndata: %b\n\n" % (name.encode(), _encoder.encode(data))


@dataclass
class Found:
    """What was read behind a position: events by number, the place of the newest, and whether
    their agent was deleted by then.

    `here` is the mark of the event at the position, empty where it is no longer there.
    """

    last: Place
    is_deleted: bool
    here: str = ""
    events: list[tuple[Place, str, bytes]] = field(default_factory=list[tuple[Place, str, bytes]])

    @property
    def is_full(self) -> bool:
        return len(self.events) == BATCH


class Stream:
    """One watcher's stream, behind `place`. To be closed.

    `on_room` and `on_close` are called when it can take more again, and when it is closed.
    """

    def __init__(
        self,
        watcher: Watcher,
        agent_id: str,
        place: Place,
        until_s: float,
        *,
        on_room: Callable[[], None],
        on_close: Callable[["Stream"], None],
    ) -> None:
        self.watcher = watcher
        self.agent_id = agent_id
        self._place = place
        self._until_s = until_s
        self._on_room = on_room
        self._on_close = on_close
        self._frames: deque[bytes] = deque()
        self._notices = 0
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def position(self) -> int:
        """The number that it stands behind."""
        return self._place.number

    @property
    def has_room(self) -> bool:
        """Say whether another batch may be read for it."""
        return not self._ended and len(self._frames) < BATCH

    async def frames(self, first: bytes) -> AsyncGenerator[bytes]:
        """Yield what the client is sent, with heartbeats, until the stream ends."""
        yield first
        while (left_s := self._until_s - monotonic()) > 0:
            if self._frames:
                if not self.has_room:
                    self._on_room()
                taken = b"".join(self._frames)
                self._frames.clear()
                self._notices = 0
                yield taken
            elif self._ended:
                return
            elif not await self._changes(min(HEARTBEAT_S, left_s)) and left_s > HEARTBEAT_S:
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
        if self._place.mark and found.here not in ("", self._place.mark):
            self._reset(found)
            return
        for place, name, event in found.events:
            if place.number != self.position + 1:
                self._reset(found)
                return
            self._place = place
            self._append(event)
            if name == AgentDeleted.type_name():
                self.end()
                return
        if not found.is_full and self.position != found.last.number:
            self._reset(found)

    def _reset(self, found: Found) -> None:
        self._place = found.last
        self._append(frame(RESET, {"agentId": self.agent_id}, found.last))
        if found.is_deleted:
            self.end()

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

    def limit(self, until_s: float) -> None:
        """Let it end at this time (monotonic seconds) at the latest."""
        if until_s < self._until_s:
            self._until_s = until_s
            self._changed.set()

    def end(self) -> None:
        """End the stream once its client has what is waiting."""
        self._ended = True
        self._changed.set()

    def close(self) -> None:
        """Forget the stream."""
        self._ended = True
        self._on_close(self)
