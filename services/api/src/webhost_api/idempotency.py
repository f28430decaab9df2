"""Idempotency keys: the first answer again, recorded in the transaction that made it.

Guarantees: of the requests of one user with one key to one route, one is carried out; its response
is recorded together with its facts and returned again for at least KEPT_MS. Refusals are not
recorded: they changed nothing. The ids that a request creates are derived from the key and from the
time of its first attempt, which is recorded first: a retry after a crash creates the same ones.
What another service is asked for has a name that is made in the same way: it is asked for that only
by requests like the first, and in a place that the answer is certain to have.
Requests and answers may hold secrets: of the one a keyed fingerprint is kept, the other sealed.
What is remembered of one user is bounded by the tier, and removed when it is past its retention.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database, Transactions
from webhost_kit.errors import Conflict
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.http.idempotency import check_key
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.response_keys import ResponseKeys, Unreadable

from webhost_api.bounds import KEYS_A_DAY
from webhost_api.handlers import Tiers, tier_of
from webhost_api.spending import full_until
from webhost_api.tables import idempotency, idempotency_claims

log = structlog.get_logger(__name__)

KEPT_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Answer:
    """An answer's status and body."""

    status: int
    body: bytes


@dataclass(frozen=True)
class IdempotencyKey:
    """A key in its scope, and the request that came with it: its method, path and body."""

    user_id: str
    route: str
    key: str
    request: bytes = field(repr=False)
    keys: ResponseKeys

    @classmethod
    def of(
        cls,
        key: str,
        *,
        user_id: str,
        route: str,
        method: str,
        path: str,
        body: bytes,
        keys: ResponseKeys,
    ) -> "IdempotencyKey":
        """Return the key of a request. Raises InvalidRequest where it is not of the form."""
        check_key(key)
        return cls(user_id, route, key, f"{method} {path}\n".encode() + body, keys)

    @property
    def lock(self) -> int:
        """Return the number of the advisory lock that stands for this key."""
        return int.from_bytes(self.digest("lock")[:8], "big", signed=True)

    def require_same(self, row: sa.Row[Any]) -> None:
        """Raise Conflict where what this row remembers is another request with the key.

        A fingerprint of a key of the api's that is gone tells nothing.
        """
        fingerprint = self.keys.fingerprint(row.key_id, self.request)
        if fingerprint is not None and fingerprint != row.fingerprint:
            raise Conflict("This idempotency key was used for another request.")

    def seal(self, key_id: str, answer: bytes) -> bytes:
        """Return an answer to this request, sealed for its row."""
        return self.keys.seal(key_id, self.row, answer, self.digest("answer"))

    def open(self, key_id: str, sealed: bytes) -> bytes:
        """Return the recorded answer. Raises Conflict where it cannot be read any more."""
        try:
            return self.keys.open(key_id, self.row, sealed, self.digest("answer"))
        except Unreadable as error:
            log.error("recorded answer unreadable", reason=str(error))
            message = "This was done, but its answer can no longer be read."
            raise Conflict(message) from error

    @property
    def row(self) -> str:
        """Return what names the key in its scope, and nothing of the request."""
        return self.digest("row").hex()

    def digest(self, purpose: str) -> bytes:
        """Return bytes that follow from the key and its scope, for one purpose."""
        scope = f"{purpose}\n{self.user_id}\n{self.route}\n{self.key}"
        return hashlib.sha256(scope.encode()).digest()


async def id_for(
    database: Transactions, tiers: Tiers, key: IdempotencyKey | None, prefix: str, at_ms: int
) -> str:
    """Return the id of the thing that a request makes; `at_ms` is the time of this try.

    Raises Unavailable, or RateLimited where too many keys of the user's are remembered.
    """
    if key is None:
        return new_id(prefix, at_ms)
    claim = await _claim(database, tiers, key, at_ms)
    return ids.new_id(prefix, claim.first_tried_at_ms, key.digest(prefix)[: ids.ENTROPY_BYTES])


async def operation_of(
    database: Transactions, tiers: Tiers, key: IdempotencyKey | None, at_ms: int
) -> str:
    """Return what names the request to another service, which does it once.

    Raises Unavailable, RateLimited where too many keys of the user's are remembered, or Conflict
    where the key came with another request before, whether that was answered or not.
    """
    if key is None:
        return secrets.token_hex(16)
    claim = await _claim(database, tiers, key, at_ms)
    key.require_same(claim)
    return f"{key.row}.{claim.first_tried_at_ms}.{claim.fingerprint}"


async def recorded(connection: AsyncConnection, key: IdempotencyKey) -> Answer | None:
    """Return the recorded response.

    Raises Conflict if the key was used for another request, or the response cannot be read.
    """
    row = (await connection.execute(_row_of(idempotency, key))).one_or_none()
    if row is None:
        return None
    key.require_same(row)
    return Answer(row.status, key.open(row.key_id, row.body))


async def once(
    connection: AsyncConnection,
    tiers: Tiers,
    key: IdempotencyKey,
    work: Callable[[], Awaitable[Answer]],
) -> Answer:
    """Return the recorded answer, or do the work and record its answer.

    Raises Conflict where the key came with another request, or (retryable) where the first one
    is still running; RateLimited where too many answers to the user are remembered.
    """
    if not await connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key.lock))):
        raise Conflict("The first request with this key is still running.", retryable=True)
    if (answer := await recorded(connection, key)) is not None:
        return answer
    if (await connection.execute(_row_of(idempotency_claims, key))).one_or_none() is None:
        await _require_room(connection, tiers, key, idempotency.c.answered_at_ms)
    answer = await work()
    await connection.execute(
        sa.insert(idempotency).values(
            **_scope(key),
            **_fingerprint(key),
            status=answer.status,
            body=key.seal(key.keys.newest, answer.body),
            answered_at_ms=now_ms(),
        )
    )
    return answer


async def remove_old(database: Database) -> None:
    """Remove records that are past their retention. Raises Unavailable."""
    before_ms = now_ms() - KEPT_MS
    async with database.transaction() as connection:
        for time in (idempotency.c.answered_at_ms, idempotency_claims.c.first_tried_at_ms):
            await connection.execute(sa.delete(time.table).where(time < before_ms))


async def _claim(
    database: Transactions, tiers: Tiers, key: IdempotencyKey, at_ms: int
) -> sa.Row[Any]:
    """Return what is remembered of the key's first try, which may be this one, at `at_ms`; durable
    on return. A key that is claimed has room for its answer.
    """
    claims = idempotency_claims
    async with database.transaction() as connection:
        row = (await connection.execute(_row_of(claims, key))).one_or_none()
        if row is None:
            for time in (claims.c.first_tried_at_ms, idempotency.c.answered_at_ms):
                await _require_room(connection, tiers, key, time)
            claim = {**_scope(key), **_fingerprint(key), "first_tried_at_ms": at_ms}
            await connection.execute(insert(claims).values(claim).on_conflict_do_nothing())
            row = (await connection.execute(_row_of(claims, key))).one()
    crash_point("api.claimed")
    return row


async def _require_room(
    connection: AsyncConnection, tiers: Tiers, key: IdempotencyKey, time: sa.Column[Any]
) -> None:
    """Raise RateLimited where the user's keys of the last day fill the tier's bound on them."""
    _, allowed = await tier_of(connection, tiers, key.user_id)
    now = now_ms()
    until_ms = await full_until(connection, KEYS_A_DAY, allowed, time, key.user_id, now)
    if until_ms is not None:
        raise KEYS_A_DAY.refusal(allowed, until_ms - now)


def _scope(key: IdempotencyKey) -> dict[str, str]:
    return {"user_id": key.user_id, "route": key.route, "key": key.key}


def _fingerprint(key: IdempotencyKey) -> dict[str, str | None]:
    key_id = key.keys.newest
    return {"key_id": key_id, "fingerprint": key.keys.fingerprint(key_id, key.request)}


def _row_of(table: sa.Table, key: IdempotencyKey) -> sa.Select[Any]:
    return sa.select(table).where(*(table.c[name] == value for name, value in _scope(key).items()))
