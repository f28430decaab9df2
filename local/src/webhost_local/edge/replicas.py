"""The replicas of the services behind the public origin, and which of them are ready.

Guarantees: requests go in turn to those that are ready; the others are tried only where none of
them can be reached. Which are ready is asked every POLL_SECONDS, and one that takes no connection
is not until it says so again.
"""

import asyncio
from collections.abc import Iterable, Mapping

import aiohttp

POLL_SECONDS = 0.25
SILENCE_SECONDS = 1.0
"""A replica that says nothing for so long is frozen, or as good as that."""


class Replicas:
    """The replicas of one service, by their base URLs."""

    def __init__(self, bases: tuple[str, ...]) -> None:
        self.bases = bases
        self._turn = 0
        self._away: set[str] = set()

    def in_turn(self) -> list[str]:
        """All of them, in the order in which a request tries them."""
        self._turn = (self._turn + 1) % max(len(self.bases), 1)
        turned = self.bases[self._turn :] + self.bases[: self._turn]
        return sorted(turned, key=self._away.__contains__)

    def heard(self, base: str, *, ready: bool) -> None:
        """Take up what was seen of a replica."""
        if ready:
            self._away.discard(base)
        else:
            self._away.add(base)


class ReadinessWatch:
    """Asks the replicas whether they are ready while it runs; `urls` by their base URLs.

    A service with one replica, or one of which nobody says where to ask, is not asked.
    """

    def __init__(self, services: Iterable[Replicas], urls: Mapping[str, str]) -> None:
        self._watched = [
            (replicas, base, urls[base])
            for replicas in services
            if len(replicas.bases) > 1
            for base in replicas.bases
            if base in urls
        ]

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Ask without end."""
        async with asyncio.TaskGroup() as group:
            for replicas, base, url in self._watched:
                group.create_task(self._watch(session, replicas, base, url))

    async def _watch(
        self, session: aiohttp.ClientSession, replicas: Replicas, base: str, url: str
    ) -> None:
        while True:
            replicas.heard(base, ready=await _is_ready(session, url))
            await asyncio.sleep(POLL_SECONDS)


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with asyncio.timeout(SILENCE_SECONDS), session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
