"""The idempotency ledger: which calls came with a key, and what they were answered.

One for the header `Idempotency-Key` of both invoke endpoints and for delegated invocations. A key
is a user's and an agent's; those of the two kinds do not meet, so that a user cannot use up a back
end's keys. What the request was (route and body) is only its fingerprint.
Guarantees: a key is claimed in the statement that admits its call, so that of any number of calls
with one key, at any gateways, one runs; a refused call claims nothing, and one that is released
gives its claim up. What the call was answered is stored, sealed, in the statement that records its
outcome: until then a repeat is told that the first call is running, after it a repeat is answered
the same. A call that ended without a stored answer (its gateway died, its caller left a stream) is
never run again: its outcome is unknown. That is read from the invocation's own row, whoever closed
it, and stays so: an answer that comes after that (its gateway was frozen) is not stored.
Answers are kept for ANSWERS_KEPT_MS, and not at all over MAX_KEPT_BYTES or where too many are being
kept; claims for CLAIMS_KEPT_MS. See `retention`.
Hot path: raw SQL at the end of the file; the claim is in `admission_statement`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from webhost_kit.batching import Batcher
from webhost_kit.byte_budget import ByteBudget
from webhost_kit.clock import now_ms
from webhost_kit.database.statements import Statements
from webhost_kit.errors import Conflict, Unavailable
from webhost_kit.response_keys import ResponseKeys, Unreadable

from webhost_gateway.flow_control import FREE_BYTES
from webhost_gateway.ledger.recording import Kept, Recording
from webhost_gateway.model import Claim, Invocation

log = structlog.get_logger(__name__)

INVOKE = "invoke"
DELEGATED = "delegated"

HOUR_MS = 3600 * 1000
ANSWERS_KEPT_MS = 24 * HOUR_MS
CLAIMS_KEPT_MS = {INVOKE: 48 * HOUR_MS, DELEGATED: 400 * 24 * HOUR_MS}
KEEPING_BYTES = 32 * 1024 * 1024
KEEPING_SHARE = KEEPING_BYTES // 4
"""What is held of answers until they are stored, and of one user's."""
RETRY_AFTER_S = 1
MAX_BATCH = 64
"""With MAX_KEPT_BYTES this bounds what one statement reads."""
MAX_WAITING = 5_000


class AlreadyClaimed(Conflict):
    """The key is another call's, which is not over yet as far as it can be seen."""

    def __init__(self, invocation_id: str | None = None) -> None:
        super().__init__(
            "The first call with this idempotency key is still running; try again shortly.",
            details={"reason": "running"} | _naming(invocation_id),
            retryable=True,
            retry_after_s=RETRY_AFTER_S,
        )


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A call's key in its scope, and the request that came with it: its route and its body."""

    user_id: str
    agent_id: str
    kind: str
    key: str
    request: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """The first call with a key. `problem` is what its repeat is told instead of its answer.

    `invocation_id` is None for a repeat that is another request. `sealed` is the answer; None while
    it is over FREE_BYTES and was not asked for as a whole.
    """

    claim: Claim
    invocation_id: str | None
    problem: Conflict | None
    sealed: bytes | None


@dataclass(frozen=True, slots=True)
class _Sought:
    key: IdempotencyKey
    whole: bool
    found: asyncio.Future[Sequence[Any] | None]


def _is_wanted(sought: _Sought) -> bool:
    return not sought.found.done()


class Idempotency:
    """The ledger. Its reads share statements, on a connection that nothing else waits for."""

    def __init__(self, statements: Statements, keys: ResponseKeys) -> None:
        self._statements = statements
        self._keys = keys
        self._keeping = ByteBudget(KEEPING_BYTES, KEEPING_SHARE)
        self._batcher = Batcher(
            self._look_up, max_batch=MAX_BATCH, max_waiting=MAX_WAITING, wanted=_is_wanted
        )
        self.run = self._batcher.run

    def claim(self, key: IdempotencyKey, invocation: Invocation) -> Claim:
        """Return the row that claims the key for this call."""
        key_id = self._keys.newest
        return Claim(
            invocation_id=invocation.id,
            user_id=key.user_id,
            agent_id=key.agent_id,
            kind=key.kind,
            key=key.key,
            key_id=key_id,
            fingerprint=self._keys.fingerprint(key_id, key.request) or "",
            created_at_ms=invocation.admitted_at_ms,
        )

    def recording(self, claim: Claim) -> Recording:
        """Begin to keep what the call is answered."""
        return Recording(claim, self._keys, self._keeping)

    async def find(self, key: IdempotencyKey, *, whole: bool = False) -> Found | None:
        """Return the call that claimed this key, if any did. Raises Unavailable."""
        sought = _Sought(key, whole, asyncio.get_running_loop().create_future())
        try:
            self._batcher.add(sought)
        except asyncio.QueueFull as error:
            raise Unavailable("The gateway is overloaded; try again shortly.") from error
        row = await sought.found
        return None if row is None else self._judged(key, row)

    def opened(self, found: Found) -> Kept:
        """Return what the first call was answered. Raises Conflict where that cannot be read."""
        claim = found.claim
        if found.sealed is None:
            raise _already_done(claim.invocation_id)
        try:
            opened = self._keys.open(claim.key_id, claim.invocation_id, found.sealed, claim.binding)
        except Unreadable as error:
            log.error("kept answer unreadable", call=claim.invocation_id, reason=str(error))
            raise _already_done(claim.invocation_id) from error
        return msgspec.msgpack.decode(opened, type=Kept)

    def _judged(self, key: IdempotencyKey, row: Sequence[Any]) -> Found:
        *columns, finished_at_ms, is_kept, is_running, sealed = row
        claim = Claim(*columns)
        fingerprint = self._keys.fingerprint(claim.key_id, key.request)
        if fingerprint is not None and fingerprint != claim.fingerprint:
            message = "This idempotency key was used for another request."
            return Found(claim, None, Conflict(message, details={"reason": "key_reused"}), None)
        problem = None
        if finished_at_ms is None:
            of = claim.invocation_id
            problem = AlreadyClaimed(of) if is_running else _unknown(of)
        elif not is_kept or finished_at_ms < now_ms() - ANSWERS_KEPT_MS:
            problem = _already_done(claim.invocation_id)
        return Found(claim, claim.invocation_id, problem, sealed)

    async def _look_up(self, batch: list[_Sought]) -> None:
        sought = [_scope(item.key) | {"whole": item.whole} for item in batch]
        parameters = {"sought": msgspec.json.encode(sought).decode(), "free": FREE_BYTES}
        try:
            rows = await self._statements.execute((FIND, parameters))
        except Unavailable as error:
            for item in batch:
                if not item.found.done():
                    item.found.set_exception(error)
            return
        found: dict[int, Sequence[Any]] = {row[0]: row[1:] for row in rows}
        for place, item in enumerate(batch, start=1):
            if not item.found.done():
                item.found.set_result(found.get(place))


def _already_done(invocation_id: str) -> Conflict:
    return Conflict(
        "The call with this idempotency key has been made, and its answer is no longer kept.",
        details={"reason": "already_done"} | _naming(invocation_id),
    )


def _unknown(invocation_id: str) -> Conflict:
    return Conflict(
        "The call with this idempotency key was made, and it is not known how it ended.",
        details={"reason": "outcome_unknown"} | _naming(invocation_id),
    )


def _naming(invocation_id: str | None) -> dict[str, str]:
    return {} if invocation_id is None else {"invocationId": invocation_id}


def _scope(key: IdempotencyKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in ("user_id", "agent_id", "kind", "key")}


# One snapshot of both rows: an outcome and its answer appear at once.
FIND = """
SELECT s.place, i.invocation_id, i.user_id, i.agent_id, i.kind, i.key, i.key_id,
    encode(i.fingerprint, 'hex'), i.created_at_ms, i.finished_at_ms, i.response IS NOT NULL,
    EXISTS (
        SELECT FROM invocations v WHERE v.id = i.invocation_id AND v.finished_at_ms IS NULL
    ),
    CASE WHEN s.whole OR octet_length(i.response) <= %(free)s THEN i.response END
FROM ROWS FROM (json_to_recordset(%(sought)s::json) AS (
    user_id text, agent_id text, kind text, key text, whole boolean
)) WITH ORDINALITY AS s(user_id, agent_id, kind, key, whole, place)
JOIN idempotency i
    ON (i.user_id, i.agent_id, i.kind, i.key) = (s.user_id, s.agent_id, s.kind, s.key)
"""

# Of FINISH, behind `closed`: a call that was closed by others is told to be of unknown outcome.
STORED = """stored AS (
    UPDATE idempotency i SET finished_at_ms = %(answered_at_ms)s, response = a.response
    FROM unnest(%(answered)s::text[], %(responses)s::bytea[]) AS a(invocation_id, response)
    WHERE i.invocation_id = ANY(%(answered)s::text[]) AND i.invocation_id = a.invocation_id
        AND i.finished_at_ms IS NULL AND i.invocation_id IN (SELECT id FROM closed)
),
"""
