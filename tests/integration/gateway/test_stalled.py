"""A Postgres backend that hangs: what it executes later changes nothing, and others go on."""

import asyncio
import time

import pytest
from webhost_contracts.entitlements import Entitlements
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import LimitExceeded, Unavailable

from tests.integration.gateway.ledger import Ledger, an_invocation, ledger, until_gone
from tests.integration.gateway.test_idempotency_ledger import claim_of
from tests.support.deadline import eventually
from tests.support.infra import Postgres

CALLS = 20
TIER = Entitlements(
    requests=1 + CALLS,
    concurrency=1 + CALLS,
    requests_per_minute=1,
    telemetry_days=1,
    log_days=1,
)
NARROW = Entitlements(
    requests=None, concurrency=1, requests_per_minute=1, telemetry_days=1, log_days=1
)


async def admits(here: Ledger, user_id: str) -> None:
    """Return when a call of this user was admitted."""

    async def admitted() -> bool:
        try:
            await here.admission.admit(an_invocation(user_id), TIER)
        except Unavailable:
            return False
        return True

    await eventually(admitted, "an admission", seconds=20)


@pytest.mark.accept("A2")
@pytest.mark.parametrize("keyed", [False, True])
async def test_an_admission_that_is_executed_after_its_release_admits_nothing(
    postgres_server: Postgres, database_url: str, keyed: bool
) -> None:
    """Of 20 calls in a statement that hangs, none counts: before it is executed, nor after.

    Nor is a key claimed.
    """
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        first = an_invocation("usr_1")
        # The server knows the statement from here on: what hangs later is its execution.
        claim = claim_of(first, "first") if keyed else None
        await here.admission.admit(first, TIER, claim=claim)
        here.outcomes.release(first)

        async def released() -> bool:
            return here.quota("usr_1") == (0, 0)

        await eventually(released, "the first call to be released")
        pid = here.backend("admitting")
        with postgres_server.suspended(pid):
            calls = [an_invocation("usr_1") for _ in range(CALLS)]
            began = time.monotonic()
            refusals = await asyncio.gather(
                *(
                    here.admission.admit(
                        call, TIER, claim=claim_of(call, call.id) if keyed else None
                    )
                    for call in calls
                ),
                return_exceptions=True,
            )
            assert {type(refusal) for refusal in refusals} == {Unavailable}
            assert time.monotonic() - began < 2
            # One more, whose caller is gone before the server answers again.
            late = an_invocation("usr_1")
            waiting = asyncio.create_task(here.admission.admit(late, TIER))
            await asyncio.sleep(0)
            waiting.cancel()
            await admits(here, "usr_1")

            async def all_released() -> bool:
                rows = here.rows("SELECT id FROM invocations WHERE finished_at_ms IS NOT NULL")
                return {call.id for call in calls} <= {row[0] for row in rows}

            await eventually(all_released, "what was not answered to be released")
        await until_gone(here, pid)
        assert here.quota("usr_1") == (1, 1)
        open_calls = here.rows("SELECT id FROM invocations WHERE finished_at_ms IS NULL")
        assert len(open_calls) == 1
        closed = {row[0] for row in here.rows("SELECT id FROM invocations")}
        assert {call.id for call in calls} <= closed
        assert late.id not in closed
        assert here.rows("SELECT 1 FROM usage_outbox") == []
        assert here.rows("SELECT 1 FROM idempotency") == []
        # The user is not locked out either: all that is left can be taken, and no more.
        for _ in range(CALLS):
            await here.admission.admit(an_invocation("usr_1"), TIER)
        with pytest.raises(LimitExceeded):
            await here.admission.admit(an_invocation("usr_1"), TIER)


@pytest.mark.accept("A9")
async def test_a_user_at_its_concurrency_limit_holds_up_no_other(
    postgres_server: Postgres, database_url: str
) -> None:
    """While the end of a user's call cannot be recorded, its next one waits, and only that."""
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        ended = an_invocation("usr_1")
        await here.admission.admit(ended, NARROW)
        await here.admission.admit(other := an_invocation("usr_2"), TIER)
        here.record(other)
        await here.outcomes.catch_up()
        with postgres_server.suspended(here.backend("recording")):
            here.record(ended)
            waits = asyncio.create_task(here.admission.admit(an_invocation("usr_1"), NARROW))
            for number in range(5):
                await here.admission.admit(an_invocation(f"usr_of_{number}"), TIER)
            assert not waits.done()
            with pytest.raises((LimitExceeded, Unavailable)):
                await waits
        await here.outcomes.catch_up()

        async def recorded() -> bool:
            return here.quota("usr_1") == (1, 0)

        await eventually(recorded, "the end of the call to be recorded", seconds=15)
        await here.admission.admit(an_invocation("usr_1"), NARROW)
