"""Work that is done from time to time, and postponed while what it needs is away."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import structlog
from nats.errors import Error as NatsError

from webhost_kit.database.away import is_away, is_conflict
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import held
from webhost_kit.errors import Unavailable

log = structlog.get_logger(__name__)


async def every(
    seconds: float,
    work: Callable[[], Awaitable[object]],
    name: str,
    *,
    alone_at: Database | None = None,
) -> None:
    """Do the work again and again, at first now; between two times are half to one and a half of
    these seconds, so that replicas spread out.

    With `alone_at`, one process of this database does it at a time, and the others leave it out.
    While Postgres or the bus is away it is postponed to the next time; anything else is raised.
    """
    while True:
        try:
            if alone_at is None:
                await work()
            else:
                async with held(alone_at.dsn, name) as lock:
                    if lock is not None:
                        await work()
        except Exception as error:
            is_passing = is_away(error) or is_conflict(error)
            if not (is_passing or isinstance(error, Unavailable | NatsError)):
                raise
            log.warning("work postponed", work=name, error=repr(error).partition("\n")[0])
        await asyncio.sleep(seconds * (0.5 + secrets.randbelow(1000) / 1000))
