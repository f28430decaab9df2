"""Claims in the statement that admits: races between gateways, limits, and what is removed."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.periods import day_key, period_key
from webhost_gateway.ledger.idempotency import (
    ANSWERS_KEPT_MS,
    CLAIMS_KEPT_MS,
    DELEGATED,
    INVOKE,
    AlreadyClaimed,
)
from webhost_gateway.ledger.recording import Recording
from webhost_gateway.ledger.retention import Retention, remove_answers, remove_claims
from webhost_gateway.model import Claim, Invocation
from webhost_gateway.routing.model import RouteTable
from webhost_kit.byte_budget import ByteBudget
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import LimitExceeded
from webhost_kit.response_keys import ResponseKeys

from tests.integration.gateway.harness import RESPONSE_KEYS
from tests.integration.gateway.ledger import Ledger, an_invocation, ledger
from tests.support.deadline import eventually
from tests.support.harness import in_background

TIER = Entitlements(
    requests=None, concurrency=None, requests_per_minute=1, telemetry_days=1, log_days=1
)
TWO = Entitlements(
    requests=2, concurrency=None, requests_per_minute=1, telemetry_days=1, log_days=1
)
KEYS = 40
EACH = 8
KEYS_OF_ANSWERS = ResponseKeys.parse(RESPONSE_KEYS)


def claim_of(call: Invocation, key: str) -> Claim:
    fingerprint = "00" * 32
    return Claim(
        call.id, call.user_id, call.agent_id, INVOKE, key, "r1", fingerprint, call.admitted_at_ms
    )


async def admit(here: Ledger, key: str | None, tier: Entitlements = TIER) -> str:
    """Ask for a call with this key; return how that ended."""
    call = an_invocation("usr_1")
    try:
        claim = None if key is None else claim_of(call, key)
        await here.admission.admit(call, tier, claim=claim)
    except AlreadyClaimed:
        return "repeated"
    except LimitExceeded as refused:
        return refused.details["limitType"]
    return call.id


@pytest.mark.accept("7.7.once")
async def test_gateways_that_race_for_keys_admit_one_call_each(database_url: str) -> None:
    """Each key comes to both at once, many times, between calls without a key."""
    upgrade(database_url, "webhost_gateway")
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(ledger(database_url)) for _ in range(2)]
        asked = [
            (
                f"k{number}" if turn else None,
                admit(gateways[turn % 2], f"k{number}" if turn else None),
            )
            for number in range(KEYS)
            for turn in range(EACH)
        ]
        answers = await asyncio.gather(*(call for _, call in asked))
        ended = [(key, answer) for (key, _), answer in zip(asked, answers, strict=True)]
        admitted = Counter(key for key, answer in ended if answer.startswith("inv_"))
        assert admitted == {None: KEYS} | {f"k{number}": 1 for number in range(KEYS)}
        assert {a for _, a in ended if not a.startswith("inv_")} == {"repeated"}
        here = gateways[0]
        assert here.quota("usr_1") == (2 * KEYS, 2 * KEYS)
        rows = here.rows("SELECT key, invocation_id FROM idempotency")
        assert set(rows) == {(k, a) for k, a in ended if k is not None and a != "repeated"}


@pytest.mark.accept("7.7.once")
async def test_a_key_that_is_committed_while_a_statement_waits_is_found(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both gateways' statements began before either had claimed anything."""
    monkeypatch.setattr("webhost_gateway.ledger.admission.WAIT_S", 30)
    upgrade(database_url, "webhost_gateway")
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(ledger(database_url)) for _ in range(2)]
        for number, gateway in enumerate(gateways):
            assert (await admit(gateway, f"first {number}")).startswith("inv_")
        with psycopg.connect(database_url) as gate:
            gate.execute("SELECT FROM quotas FOR UPDATE")
            calls = [asyncio.create_task(admit(gateway, "k")) for gateway in gateways]

            async def both_wait() -> bool:
                return len(gateways[0].rows(WAITING)) == 2

            await eventually(both_wait, "both statements to wait", seconds=1.8)
        ended = await asyncio.gather(*calls)
        assert sorted(answer[:4] for answer in ended) == ["inv_", "repe"]
        assert gateways[0].quota("usr_1") == (3, 3)
        assert gateways[0].rows("SELECT 1 FROM idempotency WHERE key = 'k'") == [(1,)]


WAITING = """
SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND application_name = 'gateway admitting'
"""


@pytest.mark.accept("7.7.claims")
async def test_a_repeat_takes_nothing_of_a_limit_and_a_refused_call_no_key(
    database_url: str,
) -> None:
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        assert (await admit(here, "a", TWO)).startswith("inv_")
        ended = await asyncio.gather(*(admit(here, key, TWO) for key in ("a", "a", "b", "b", "c")))
        assert ended[:2] == ["repeated", "repeated"]
        assert ended[2].startswith("inv_")
        assert ended[3:] == ["repeated", "requests"]
        assert here.quota("usr_1") == (2, 2)
        assert {row[0] for row in here.rows("SELECT key FROM idempotency")} == {"a", "b"}


@pytest.mark.accept("7.7.failures")
async def test_an_answer_that_comes_after_its_call_was_given_up_is_not_kept(
    database_url: str,
) -> None:
    """Its repeats were told that it is not known how the call ended, which is final."""
    upgrade(database_url, "webhost_gateway")
    keys = ResponseKeys.parse(RESPONSE_KEYS)
    async with ledger(database_url) as here:
        calls = {key: an_invocation("usr_1") for key in ("frozen", "in time")}
        for key, call in calls.items():
            await here.admission.admit(call, TIER, claim=claim_of(call, key))
        given_up = "UPDATE invocations SET finished_at_ms = 1 WHERE id = %s"
        here.rows(given_up, calls["frozen"].id)
        for key, call in calls.items():
            answer = Recording(claim_of(call, key), keys, ByteBudget(1_000, 1_000))
            answer.add(b"{}")
            answer.end(200, "application/json")
            here.record(call, answer)

        async def stored() -> bool:
            found = here.rows(
                "SELECT key, finished_at_ms IS NOT NULL, response IS NOT NULL"
                " FROM idempotency ORDER BY key"
            )
            return found == [("frozen", False, False), ("in time", True, True)]

        await eventually(stored, "the answer in time alone")


@pytest.mark.accept("7.7.kept")
async def test_old_answers_and_keys_are_removed_each_in_its_time(database_url: str) -> None:
    """Another bound for each kind; what is young, and a key without an answer, stays."""
    upgrade(database_url, "webhost_gateway")
    database = Database(database_url)
    at_ms = now_ms()
    async with database.transaction() as connection:
        for kind, kept_ms in CLAIMS_KEPT_MS.items():
            for age, age_ms in (("young", kept_ms - 60_000), ("old", kept_ms + 60_000)):
                await connection.execute(
                    sa.text(
                        "INSERT INTO idempotency VALUES ('u', 'a', :kind, :age, 'r1', '', :id,"
                        " :created, :created, :response)"
                    ),
                    {"kind": kind, "age": age, "id": f"{kind} {age}", "created": at_ms - age_ms}
                    | {"response": b"sealed"},
                )
        await connection.execute(
            sa.text(
                "INSERT INTO idempotency VALUES ('u', 'a', 'invoke', 'fresh', 'r1', '', 'fresh',"
                " :at, :at, 'sealed')"
            ),
            {"at": at_ms - ANSWERS_KEPT_MS + 60_000},
        )
    assert await remove_answers(database, at_ms - ANSWERS_KEPT_MS) == 4
    assert await remove_answers(database, at_ms - ANSWERS_KEPT_MS) == 0
    assert await answered(database) == {("invoke", "fresh")}
    for kind, kept_ms in CLAIMS_KEPT_MS.items():
        assert await remove_claims(database, kind, at_ms - kept_ms) == 1
    assert await left(database) == {(INVOKE, "young"), (INVOKE, "fresh"), (DELEGATED, "young")}
    await database.close()


@pytest.mark.accept("7.7.kept")
async def test_answers_that_are_stored_make_room_for_others(database_url: str) -> None:
    upgrade(database_url, "webhost_gateway")
    room = ByteBudget(1_000, 1_000)
    async with ledger(database_url) as here:
        for number in range(3):
            call = an_invocation("usr_1")
            claim = claim_of(call, f"k{number}")
            await here.admission.admit(call, TIER, claim=claim)
            recording = Recording(claim, KEYS_OF_ANSWERS, room)
            recording.add(bytes(600))
            recording.end(200, "application/json")
            here.record(call, recording)

            async def has_room() -> bool:
                return room.taken == 0

            await eventually(has_room, "the answer's room")
        kept = here.rows("SELECT key FROM idempotency WHERE response IS NOT NULL ORDER BY key")
        assert kept == [("k0",), ("k1",), ("k2",)]


@pytest.mark.accept("7.7.once")
async def test_a_release_behind_the_outcome_does_not_give_the_key_up(database_url: str) -> None:
    """`close` records all that is queued."""
    upgrade(database_url, "webhost_gateway")
    async with ledger(database_url) as here:
        call = an_invocation("usr_1")
        claim = claim_of(call, "k")
        await here.admission.admit(call, TIER, claim=claim)
        recording = Recording(claim, KEYS_OF_ANSWERS, ByteBudget(1_000, 1_000))
        recording.end(200, "application/json")
        here.record(call, recording)
        await here.outcomes.close()
        here.outcomes.release(call)
        await here.outcomes.close()
        kept = here.rows("SELECT key, finished_at_ms IS NOT NULL FROM idempotency")
        assert kept == [("k", True)]
        assert await admit(here, "k") == "repeated"


@pytest.mark.accept("7.7.kept")
async def test_retention_removes_what_is_old_of_each_kind(database_url: str) -> None:
    """By itself, each in its time: API keys' past quotas, answers, and claims of both kinds."""
    upgrade(database_url, "webhost_gateway")
    database = Database(database_url)
    at_ms = now_ms()
    claims = {
        (kind, age, at_ms - kept_ms + (60_000 if age == "young" else -60_000))
        for kind, kept_ms in CLAIMS_KEPT_MS.items()
        for age in ("young", "old")
    }
    async with database.transaction() as connection:
        for kind, age, created_at_ms in claims:
            await connection.execute(
                sa.text(
                    "INSERT INTO idempotency VALUES ('u', 'a', :kind, :age, 'r1', '', :id,"
                    " :created, :created, 'sealed')"
                ),
                {"kind": kind, "age": age, "id": f"{kind} {age}", "created": created_at_ms},
            )
        for period in ("2020-01", "2020-01-01", period_key(at_ms), day_key(at_ms)):
            spent = "INSERT INTO key_quotas (key_id, period_key, requests) VALUES ('k', :period, 1)"
            await connection.execute(sa.text(spent), {"period": period})
    async with in_background(Retention(database, RouteTable()).run()):

        async def done() -> bool:
            return await left(database) == {(kind, "young") for kind in CLAIMS_KEPT_MS}

        await eventually(done, "old claims to be gone")
    assert await answered(database) == set()
    async with database.transaction() as connection:
        found = await connection.execute(sa.text("SELECT period_key FROM key_quotas"))
        assert set(found.scalars()) == {period_key(at_ms), day_key(at_ms)}
    await database.close()


async def answered(database: Database) -> set[tuple[Any, ...]]:
    return await left(database, "response IS NOT NULL")


async def left(database: Database, where: str = "true") -> set[tuple[Any, ...]]:
    query = sa.text(f"SELECT kind, key FROM idempotency WHERE {where}")
    async with database.transaction() as connection:
        return {tuple(row) for row in await connection.execute(query)}
