"""The statement that admits: for a batch, which of its calls fit into their limits; those it puts
on record, takes from their quotas, and claims their idempotency keys for.

Guarantees: all of it or nothing, and nothing without this gateway's lease. Quotas are locked in
order, users' before API keys'; whoever takes or releases a request of a key holds both. What an
API key has no room for takes no place in its user's order.
A call that was released before the statement is executed is on record as closed: it is not
recorded again, and since what is taken and claimed follows from what was recorded, neither is
anything taken or claimed for it. A key that another statement claims meanwhile ends this one as a
whole, and it is tried again.
Hot path: raw SQL, in `admission_sql`.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from webhost_contracts.periods import previous_period
from webhost_kit.database.statements import KeyTaken, NotRun, Statements
from webhost_kit.errors import LimitExceeded, Unavailable
from webhost_kit.process.crashpoints import crash_point

from webhost_gateway import decisions
from webhost_gateway.ledger.admission_sql import (
    ADMIT,
    ADMIT_ONE,
    ADMIT_WITH_KEYS,
    MAKE_KEY_QUOTAS,
    MAKE_QUOTAS,
)
from webhost_gateway.ledger.lease import Lease
from webhost_gateway.model import Claim, Invocation

STATEMENT_TIMEOUT_S = 2.0
KNOWN_QUOTAS = 100_000
CLAIM_TRIES = 5
"""How often keys that another gateway claimed meanwhile let the statement be tried again."""


class AdmissionRequest(msgspec.Struct, frozen=True):
    """A call that asks to be admitted, and its limits; None is no limit.

    `max_key_requests` are those of its API key, in the invocation's `key_period`.
    """

    invocation: Invocation
    max_requests: int | None
    max_in_flight: int | None
    max_key_requests: int | None = None


class Verdict(NamedTuple):
    """Whether a request was admitted, None if its idempotency key is another call's; and what is
    taken after its batch.
    """

    admitted: bool | None
    requests: int
    in_flight: int
    key_requests: int | None

    def refusal(self, request: AdmissionRequest) -> LimitExceeded | None:
        """Return what refuses the request, None where it was admitted."""
        if self.admitted:
            return None
        invocation, most = request.invocation, request.max_key_requests
        if most is not None and self.key_requests is not None and self.key_requests >= most:
            key_id, period = invocation.key_id or "", invocation.key_period or ""
            return decisions.over_key_limit(key_id, period, self.key_requests, most)
        period, most = invocation.period_key, request.max_requests
        if most is not None and self.requests >= most:
            return decisions.over_limit("requests", period, self.requests, most)
        most = request.max_in_flight or 0
        return decisions.over_limit("concurrency", period, self.in_flight, most)


class AdmissionStatement:
    """Executes it, behind the rows of the quotas that it locks."""

    def __init__(self, statements: Statements, lease: Lease) -> None:
        self._statements = statements
        self._lease = lease
        self._known: set[tuple[str, str]] = set()
        self._known_keys: set[tuple[str, str]] = set()

    def forget(self) -> None:
        """Forget which quotas have a row: the database may be another one."""
        self._known.clear()
        self._known_keys.clear()

    async def execute(
        self, batch: Sequence[AdmissionRequest], claims: Sequence[Claim]
    ) -> dict[int, Verdict]:
        """Return the verdicts by place in the batch, from 1; a place has none where the lease or
        its quota's row is missing. `claims` are those of all or of none.

        Raises NotRun, or another Unavailable where it may have been executed, or still will be.
        """
        users = {(each.invocation.user_id, each.invocation.period_key) for each in batch}
        await self._make_quotas(MAKE_QUOTAS, users, self._known)
        keys = {
            (each.invocation.key_id or "", each.invocation.key_period or "")
            for each in batch
            if each.max_key_requests is not None
        }
        await self._make_quotas(MAKE_KEY_QUOTAS, keys, self._known_keys)
        parameters: dict[str, Any] = {
            "gateway_id": self._lease.gateway_id,
            "users": list({user_id for user_id, _ in users}),
            "oldest": previous_period(min(period for _, period in users)),
        }
        if len(batch) == 1 and not (keys or claims):
            rows = await self._statements.execute((ADMIT_ONE, parameters | _flat(batch[0])))
            return {row[0]: Verdict(*row[1:]) for row in rows}
        parameters["asked"] = msgspec.json.encode([_flat(each) for each in batch]).decode()
        if claims:
            crash_point("gateway.claiming")
        if keys or claims:
            of_keys = {
                "claims": msgspec.json.encode(claims).decode(),
                "keys": list({key_id for key_id, _ in keys}),
                "key_periods": list({period for _, period in keys}),
            }
            rows = await self._admit_with_keys(parameters | of_keys)
        else:
            rows = await self._statements.execute((ADMIT, parameters))
        return {row[0]: Verdict(*row[1:]) for row in rows}

    async def _admit_with_keys(self, parameters: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
        step = ADMIT_WITH_KEYS, parameters
        for _ in range(CLAIM_TRIES - 1):
            # The next try sees what was committed meanwhile.
            with suppress(KeyTaken):
                return await self._statements.execute(step)
        return await self._statements.execute(step)

    async def _make_quotas(
        self, statement: str, quotas: set[tuple[str, str]], known: set[tuple[str, str]]
    ) -> None:
        if not (missing := quotas - known):
            return
        # Sorted, as in every statement that locks several quotas.
        owners, periods = zip(*sorted(missing), strict=True)
        try:
            await self._statements.execute(
                (statement, {"owners": list(owners), "periods": list(periods)})
            )
        except Unavailable as error:
            # Whether or not the rows were made, no call was admitted.
            raise NotRun(error.message) from error
        if len(known) + len(missing) > KNOWN_QUOTAS:
            known.clear()
        known |= missing


def _flat(request: AdmissionRequest) -> dict[str, Any]:
    return msgspec.structs.asdict(request.invocation) | {
        "max_requests": request.max_requests,
        "max_in_flight": request.max_in_flight,
        "max_key_requests": request.max_key_requests,
    }
