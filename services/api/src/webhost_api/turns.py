"""How much of one user goes on at a time in this process.

Guarantees: of one user at most `at_once` at a time, in the order of arrival; whoever has waited for
`wait_s` is refused. Nobody waits for another user.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from webhost_kit.errors import Unavailable
from webhost_kit.process.metrics import ReadGauge

_waiting = ReadGauge(
    "webhost_api_turns_waiting",
    "Requests that wait because their user has too many under way, by kind: `changes`, "
    "`reads`, `unpacking`",
    ["kind"],
)


class Turns:
    """One user's turns, `at_once` of them. `refusal` is what a user is told who waited too long;
    `kind` is their name in metrics.
    """

    def __init__(self, kind: str, at_once: int, wait_s: float, refusal: str) -> None:
        self._at_once = at_once
        self._wait_s = wait_s
        self._refusal = refusal
        self._count = 0
        _waiting.read(lambda: self._count, kind)
        self._free: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncGenerator[None]:
        """Hold one of the user's turns. Raises Unavailable, which is the user's own fault."""
        free = self._free.setdefault(user_id, asyncio.Semaphore(self._at_once))
        self._count += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await free.acquire()
        except TimeoutError as error:
            raise Unavailable(self._refusal, fault="others") from error
        finally:
            self._count -= 1
        try:
            yield
        finally:
            free.release()


def changes() -> Turns:
    """Return the turns of users' changes.

    Changes of one user wait for the same rows, each with a connection to the database that every
    other request, and the projections, wait for.
    """
    return Turns("changes", 4, 5.0, "You have too many changes under way; try again shortly.")


def reads() -> Turns:
    """Return the turns of users' reads: whoever asks for much at once waits, nobody else."""
    return Turns("reads", 4, 5.0, "You have too many requests under way; try again shortly.")
