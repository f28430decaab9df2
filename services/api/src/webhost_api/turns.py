"""How much of one user goes on at a time in this process.

Guarantees: of one user at most `at_once` at a time, in the order of arrival; whoever has waited for
`wait_s` is refused. Nobody waits for another user.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from webhost_kit.errors import Unavailable


class Turns:
    """One user's turns, `at_once` of them. `refusal` is what a user is told who waited too long."""

    def __init__(self, at_once: int, wait_s: float, refusal: str) -> None:
        self._at_once = at_once
        self._wait_s = wait_s
        self._refusal = refusal
        self._free: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncGenerator[None]:
        """Hold one of the user's turns. Raises Unavailable."""
        free = self._free.setdefault(user_id, asyncio.Semaphore(self._at_once))
        try:
            async with asyncio.timeout(self._wait_s):
                await free.acquire()
        except TimeoutError as error:
            raise Unavailable(self._refusal) from error
        try:
            yield
        finally:
            free.release()


def changes() -> Turns:
    """Return the turns of users' changes.

    Changes of one user wait for the same rows, each with a connection to the database that every
    other request, and the projections, wait for.
    """
    return Turns(4, 5.0, "You have too many changes under way; try again shortly.")


def reads() -> Turns:
    """Return the turns of users' reads: whoever asks for much at once waits, nobody else."""
    return Turns(4, 5.0, "You have too many requests under way; try again shortly.")
