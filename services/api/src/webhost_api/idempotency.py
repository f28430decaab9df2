"""Idempotency keys: the first answer again, from the same transaction that made it.

Guarantees: of requests with one key of one user and route, one is carried out; its answer is
recorded together with its facts and given again for at least KEPT_MS. Refusals are not recorded:
they changed nothing.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Conflict, InvalidRequest, Unavailable
from webhost_kit.eventsourcing.store import new_id

from webhost_api.tables import idempotency

log = structlog.get_logger(__name__)

HEADER = "Idempotency-Key"
KEPT_MS = 24 * 3600 * 1000
RETENTION_EVERY_S = 3600.0

_KEY = re.compile(r"^[\x21-\x7e]{1,200}$")


@dataclass(frozen=True)
class Answer:
    """What a request was answered with."""

    status: int
    body: bytes


@dataclass(frozen=True)
class IdempotencyKey:
    """A key in its scope, and the fingerprint of the request that came with it."""

    user_id: str
    route: str
    key: str
    fingerprint: bytes

    @classmethod
    def of(
        cls, key: str, *, user_id: str, route: str, method: str, path: str, body: bytes
    ) -> "IdempotencyKey":
        """Return the key of a request. Raises InvalidRequest where it is not of the form."""
        if not _KEY.fullmatch(key):
            raise InvalidRequest.at([HEADER], "Must be 1 to 200 visible ASCII characters.")
        fingerprint = hashlib.sha256(f"{method} {path}\n".encode() + body).digest()
        return cls(user_id, route, key, fingerprint)

    @property
    def lock(self) -> int:
        """Return the number of the advisory lock that stands for this key."""
        return int.from_bytes(self.digest("lock")[:8], "big", signed=True)

    def digest(self, purpose: str) -> bytes:
        """Return what follows from the key and its scope, for this purpose."""
        scope = f"{purpose}\n{self.user_id}\n{self.route}\n{self.key}"
        return hashlib.sha256(scope.encode()).digest()


def id_for(key: IdempotencyKey | None, prefix: str, at_ms: int) -> str:
    """Return the id of what a request makes. Under a key its randomness is the key's."""
    if key is None:
        return new_id(prefix, at_ms)
    return ids.new_id(prefix, at_ms, key.digest(prefix)[: ids.ENTROPY_BYTES])


async def once(
    connection: AsyncConnection, key: IdempotencyKey, work: Callable[[], Awaitable[Answer]]
) -> Answer:
    """Return the recorded answer, or do the work and record its answer.

    Raises Conflict where the key came with another request, or (retryable) where the first one
    is still running.
    """
    if not await connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key.lock))):
        raise Conflict("The first request with this key is still running.", retryable=True)
    query = sa.select(idempotency).where(
        idempotency.c.user_id == key.user_id,
        idempotency.c.route == key.route,
        idempotency.c.key == key.key,
    )
    row = (await connection.execute(query)).one_or_none()
    if row is not None:
        if row.fingerprint != key.fingerprint:
            raise Conflict("This idempotency key was used for another request.")
        return Answer(row.status, row.body)
    answer = await work()
    await connection.execute(
        sa.insert(idempotency).values(
            user_id=key.user_id,
            route=key.route,
            key=key.key,
            fingerprint=key.fingerprint,
            status=answer.status,
            body=answer.body,
            answered_at_ms=now_ms(),
        )
    )
    return answer


async def remove_old(database: Database) -> None:
    """Remove, again and again, the records that are past their retention."""
    while True:
        try:
            async with database.transaction() as connection:
                await connection.execute(
                    sa.delete(idempotency).where(idempotency.c.answered_at_ms < now_ms() - KEPT_MS)
                )
        except Unavailable:
            log.info("idempotency retention postponed")
        await asyncio.sleep(RETENTION_EVERY_S)
