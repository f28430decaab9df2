"""Admission: takes one request of the quota and one slot of the concurrency limit, or refuses.

Guarantees: with any number of gateways, no more than the tier's requests of a period are ever
admitted, and no more than its concurrency are open at once; an admitted invocation is durable
before its call begins; nothing is admitted without this gateway's lease. Requests that arrive
together share one statement. Each is decided within WAIT_S or refused; the queue is bounded, and a
request whose caller has disconnected is no longer admitted. A user at the concurrency limit does
not delay other users' requests, and its own are decided in the order of their arrival: none is
refused because a later one took the place that an ended call made free. Calls with an idempotency
key are decided by a statement of their own, after those without, which claims their keys too.
Hot path: its statements are raw SQL, named at the end of the file.
On a failure of unknown outcome: the caller is refused, and the call is released, since it was
not made. If the statement is executed later after all, it admits nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from prometheus_client import Histogram
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.periods import previous_period
from webhost_kit.batching import Batcher
from webhost_kit.database.statements import KeyTaken, NotRun, Statements
from webhost_kit.errors import LimitExceeded, Unavailable
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.tasks import run_together

from webhost_gateway import decisions
from webhost_gateway.ledger import idempotency, key_quotas
from webhost_gateway.ledger.idempotency import AlreadyClaimed
from webhost_gateway.ledger.lease import Lease
from webhost_gateway.ledger.outcomes import Outcomes
from webhost_gateway.ledger.recording import Claim
from webhost_gateway.model import Invocation

WAIT_S = 1.0
STATEMENT_TIMEOUT_S = 2.0
"""Callers wait no longer than WAIT_S for a statement."""
MAX_WAITING = 5_000
KNOWN_QUOTAS = 100_000
CLAIM_TRIES = 5
"""How often keys that another gateway claimed meanwhile let the statement be tried again."""

_batch_size = Histogram(
    "webhost_gateway_admission_batch_size",
    "Invocations that shared one statement",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)


class _Asked(msgspec.Struct, frozen=True):
    invocation: Invocation
    max_requests: int | None
    max_in_flight: int | None
    max_key_requests: int | None = None


class _Verdict(NamedTuple):
    """Whether a request was admitted, None if its idempotency key is another call's; and what is
    taken after its batch.
    """

    admitted: bool | None
    requests: int
    in_flight: int
    key_requests: int | None = None


@dataclass(slots=True)
class _Waiting:
    asked: _Asked
    admitted: asyncio.Future[None]
    claim: Claim | None
    last_try: bool = False


def _is_wanted(waiting: _Waiting) -> bool:
    return not waiting.admitted.done()


class Admission:
    """Admits invocations, batched."""

    def __init__(self, statements: Statements, lease: Lease, outcomes: Outcomes) -> None:
        self._statements = statements
        self._lease = lease
        self._outcomes = outcomes
        self._known: set[tuple[str, str]] = set()
        self._known_keys: set[tuple[str, str]] = set()
        self._batcher = Batcher(self._settle, max_waiting=MAX_WAITING, wanted=_is_wanted)
        self._crowded = Batcher(self._try_again, max_waiting=MAX_WAITING)
        self._crowds: Counter[str] = Counter()
        """How many requests of each user are in `_crowded`."""

    async def run(self) -> None:
        """Admit until cancelled."""
        await run_together(self._batcher.run(), self._crowded.run())

    async def admit(
        self,
        invocation: Invocation,
        limits: Entitlements,
        max_key_requests: int | None = None,
        claim: Claim | None = None,
    ) -> None:
        """Return when the invocation is on record, and its idempotency key claimed.

        `max_key_requests` are those of its API key, in the invocation's `key_period`.

        Raises LimitExceeded (`requests`, `concurrency`), Unavailable or AlreadyClaimed.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(invocation, limits.requests, limits.concurrency, max_key_requests)
        waiting = _Waiting(asked, loop.create_future(), claim)
        _enqueue(self._batcher, waiting)
        clock = loop.call_later(WAIT_S, _refuse_late, waiting)
        try:
            await waiting.admitted
        finally:
            clock.cancel()

    async def _try_again(self, batch: list[_Waiting]) -> None:
        # Calls that ended here but are not recorded yet make room once they are.
        await self._outcomes.catch_up()
        for waiting in batch:
            waiting.last_try = True
        self._batcher.put_back(batch)
        self._crowds -= Counter(waiting.asked.invocation.user_id for waiting in batch)

    def _wait_for_room(self, waiting: _Waiting) -> None:
        if _enqueue(self._crowded, waiting):
            self._crowds[waiting.asked.invocation.user_id] += 1

    def _first_in_line(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Return those to decide now; the others queue behind earlier ones of their user."""
        if not self._crowds:
            return batch
        now: list[_Waiting] = []
        for waiting in batch:
            if waiting.last_try or waiting.asked.invocation.user_id not in self._crowds:
                now.append(waiting)
            else:
                self._wait_for_room(waiting)
        return now

    async def _settle(self, batch: list[_Waiting]) -> None:
        batch = self._first_in_line(batch)
        if unkeyed := [waiting for waiting in batch if waiting.claim is None]:
            await self._admit_together(unkeyed)
        if keyed := [waiting for waiting in batch if waiting.claim is not None]:
            await self._admit_together(keyed)

    async def _admit_together(self, batch: list[_Waiting]) -> None:
        _batch_size.observe(len(batch))
        self._outcomes.expect(waiting.asked.invocation for waiting in batch)
        try:
            claims = [waiting.claim for waiting in batch if waiting.claim is not None]
            verdicts = await self._decide([waiting.asked for waiting in batch], claims)
        except Unavailable as error:
            for waiting in batch:
                if isinstance(error, NotRun):
                    self._outcomes.forget(waiting.asked.invocation)
                else:
                    self._outcomes.release(waiting.asked.invocation)
                _refuse(waiting, error)
            return
        for place, waiting in enumerate(batch, start=1):
            verdict = verdicts.get(place)
            if verdict is None or not verdict.admitted:
                self._outcomes.forget(waiting.asked.invocation)
            if verdict is None:
                # The lease, or the quota's row, is missing: the database may be another one.
                self._known.clear()
                self._known_keys.clear()
                self._lease.renew_soon()
                _refuse(waiting, Unavailable("The gateway is not ready; try again shortly."))
            elif verdict.admitted is None:
                _refuse(waiting, AlreadyClaimed())
            elif (refusal := _refusal(waiting.asked, verdict)) is None:
                self._admitted(waiting)
            elif refusal.retryable and not waiting.last_try:
                self._wait_for_room(waiting)
            else:
                _refuse(waiting, refusal)

    def _admitted(self, waiting: _Waiting) -> None:
        if waiting.admitted.done():
            self._outcomes.release(waiting.asked.invocation)
        else:
            waiting.admitted.set_result(None)

    async def _decide(self, batch: list[_Asked], claims: list[Claim]) -> dict[int, _Verdict]:
        """Return the verdicts by place in the batch. `claims` are those of all or of none."""
        keys = {(asked.invocation.user_id, asked.invocation.period_key) for asked in batch}
        await self._make_quotas(MAKE_QUOTAS, keys, self._known)
        of_keys = {
            (asked.invocation.key_id or "", asked.invocation.key_period or "")
            for asked in batch
            if asked.max_key_requests is not None
        }
        await self._make_quotas(key_quotas.MAKE, of_keys, self._known_keys)
        parameters = {
            "asked": msgspec.json.encode([_flat(asked) for asked in batch]).decode(),
            "gateway_id": self._lease.gateway_id,
            "users": list({user_id for user_id, _ in keys}),
            "oldest": previous_period(min(period for _, period in keys)),
            "keys": list({key_id for key_id, _ in of_keys}),
            "key_periods": list({period for _, period in of_keys}),
        }
        if claims:
            statement = ADMIT_CLAIMING_WITH_KEYS if of_keys else ADMIT_CLAIMING
            rows = await self._claim_and_admit(statement, parameters, claims)
        else:
            statement = ADMIT_WITH_KEYS if of_keys else ADMIT
            rows = await self._statements.execute((statement, parameters))
        return {row[0]: _Verdict(*row[1:]) for row in rows}

    async def _claim_and_admit(
        self, statement: str, parameters: dict[str, Any], claims: list[Claim]
    ) -> Sequence[tuple[Any, ...]]:
        crash_point("gateway.claiming")
        parameters["claims"] = msgspec.json.encode(claims).decode()
        for _ in range(CLAIM_TRIES - 1):
            # The next try sees what was committed meanwhile.
            with suppress(KeyTaken):
                return await self._statements.execute((statement, parameters))
        return await self._statements.execute((statement, parameters))

    async def _make_quotas(
        self, statement: str, keys: set[tuple[str, str]], known: set[tuple[str, str]]
    ) -> None:
        if not (keys := keys - known):
            return
        # Sorted, as in every statement that locks several quotas.
        owners, periods = zip(*sorted(keys), strict=True)
        try:
            await self._statements.execute(
                (statement, {"owners": list(owners), "periods": list(periods)})
            )
        except Unavailable as error:
            # Whether or not the rows were made, no call was admitted.
            raise NotRun(error.message) from error
        if len(known) + len(keys) > KNOWN_QUOTAS:
            known.clear()
        known |= keys


def _flat(asked: _Asked) -> dict[str, Any]:
    return msgspec.structs.asdict(asked.invocation) | {
        "max_requests": asked.max_requests,
        "max_in_flight": asked.max_in_flight,
        "max_key_requests": asked.max_key_requests,
    }


def _refusal(asked: _Asked, verdict: _Verdict) -> LimitExceeded | None:
    admitted, requests, in_flight, key_requests = verdict
    if admitted:
        return None
    invocation, most = asked.invocation, asked.max_key_requests
    if most is not None and key_requests is not None and key_requests >= most:
        key_id, period = invocation.key_id or "", invocation.key_period or ""
        return decisions.over_key_limit(key_id, period, key_requests, most)
    period_key = invocation.period_key
    if asked.max_requests is not None and requests >= asked.max_requests:
        return decisions.over_limit("requests", period_key, requests, asked.max_requests)
    return decisions.over_limit("concurrency", period_key, in_flight, asked.max_in_flight or 0)


def _enqueue(batcher: Batcher[_Waiting], waiting: _Waiting) -> bool:
    try:
        batcher.add(waiting)
    except asyncio.QueueFull:
        _refuse_late(waiting)
        return False
    return True


def _refuse_late(waiting: _Waiting) -> None:
    _refuse(waiting, Unavailable("The gateway is overloaded; try again shortly."))


def _refuse(waiting: _Waiting, problem: Exception) -> None:
    if not waiting.admitted.done():
        waiting.admitted.set_exception(problem)


MAKE_QUOTAS = """
INSERT INTO quotas (user_id, period_key)
SELECT * FROM unnest(%(owners)s::text[], %(periods)s::text[])
ON CONFLICT DO NOTHING
"""

_ADMIT = """
WITH {claims}asked AS MATERIALIZED (
    SELECT * FROM ROWS FROM (json_to_recordset(%(asked)s::json) AS (
        id text, user_id text, agent_id text, deployment_id text, runtime_provider text,
        trace_id text, period_key text, admitted_at_ms bigint, key_id text, key_period text,
        max_requests bigint, max_in_flight bigint, max_key_requests bigint
    )) WITH ORDINALITY AS a(
        id, user_id, agent_id, deployment_id, runtime_provider,
        trace_id, period_key, admitted_at_ms, key_id, key_period,
        max_requests, max_in_flight, max_key_requests, place
    ){unclaimed}
),
alive AS MATERIALIZED (
    SELECT gateway_id FROM leases
    WHERE gateway_id = %(gateway_id)s AND expires_at > clock_timestamp()
        AND NOT dead AND incarnation = current_setting('webhost.incarnation')
    FOR KEY SHARE
),
locked AS MATERIALIZED (
    SELECT user_id, period_key, requests, in_flight FROM quotas
    WHERE EXISTS (SELECT FROM alive)
        AND user_id = ANY(%(users)s::text[]) AND period_key >= %(oldest)s
    ORDER BY user_id, period_key
    FOR UPDATE
),
standing AS (
    SELECT user_id, period_key, requests,
        sum(in_flight) OVER (PARTITION BY user_id) AS in_flight
    FROM locked
),{keys}
ranked AS (
    SELECT a.*, s.requests, s.in_flight,
        s.requests + row_number() OVER (PARTITION BY user_id, period_key ORDER BY place)
            AS request,
        s.in_flight + row_number() OVER (PARTITION BY user_id ORDER BY place) AS concurrent
    FROM {asked} a JOIN standing s USING (user_id, period_key)
),
fitting AS MATERIALIZED (
    SELECT ranked.* FROM ranked
    WHERE request <= coalesce(max_requests, request)
        AND concurrent <= coalesce(max_in_flight, concurrent)
),
recorded AS (
    INSERT INTO invocations (id, user_id, agent_id, deployment_id, runtime_provider, trace_id,
        period_key, admitted_at_ms, key_id, key_period, gateway_id)
    SELECT id, user_id, agent_id, deployment_id, runtime_provider, trace_id,
        period_key, admitted_at_ms, key_id, key_period, %(gateway_id)s
    FROM fitting
    ON CONFLICT (id) DO NOTHING
    RETURNING id, user_id, period_key, key_id, key_period
),
{claimed}taken AS (
    UPDATE quotas q SET requests = q.requests + r.n, in_flight = q.in_flight + r.n
    FROM (
        SELECT user_id, period_key, count(*) AS n FROM recorded GROUP BY user_id, period_key
    ) r
    WHERE q.user_id = ANY(%(users)s::text[])
        AND (q.user_id, q.period_key) = (r.user_id, r.period_key)
){taken_of_keys}
SELECT place, admitted, (requests + taken_here)::bigint, (in_flight + taken_by_user)::bigint{used}
FROM (
    SELECT every.*, recorded.id IS NOT NULL AS admitted,
        count(recorded.id) OVER (PARTITION BY every.user_id, every.period_key) AS taken_here,
        count(recorded.id) OVER (PARTITION BY every.user_id) AS taken_by_user{taken_by_key}
    FROM {every} every LEFT JOIN recorded ON recorded.id = every.id
) answered{repeated}
"""

ADMIT = _ADMIT.format(**key_quotas.NONE, **idempotency.NONE)
ADMIT_WITH_KEYS = _ADMIT.format(**key_quotas.SOME, **idempotency.NONE)
ADMIT_CLAIMING = _ADMIT.format(**key_quotas.NONE, **idempotency.SOME)
ADMIT_CLAIMING_WITH_KEYS = _ADMIT.format(**key_quotas.SOME, **idempotency.SOME_WITH_KEYS)
