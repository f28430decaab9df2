"""The gateway's own tables: schema, routes as rows, and what is removed."""

import time
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from webhost_contracts import ids
from webhost_contracts.api_keys import KeyLimits
from webhost_contracts.events import (
    AccountDisabled,
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    DeploymentActivated,
    DeploymentSucceeded,
    DeploymentTornDown,
    Envelope,
    KeyCreated,
    KeyRevoked,
    KeyRotated,
    TierChanged,
)
from webhost_contracts.events.base import Event, data_of
from webhost_gateway.ledger.retention import (
    KEPT_MS,
    remove_calls,
    remove_quotas,
    remove_routes,
)
from webhost_gateway.routing import projection
from webhost_gateway.routing.model import (
    AGENT_KEPT_MS,
    DEPLOYMENT_KEPT_MS,
    KEY_KEPT_MS,
    Agent,
    RouteTable,
)
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.eventsourcing.facts import Fact

from tests.support.facts import deployment_started

NOWHERE = Checkpoint("now", 1, None)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    upgrade(database_url, "webhost_gateway")
    database = Database(database_url)
    yield database
    await database.close()


def fact(agent_id: str, version: int, event: Event, at_ms: int = 1) -> Fact:
    envelope = Envelope(
        event_id="evt_1",
        aggregate_id=agent_id,
        version=version,
        user_id="usr_1",
        occurred_at_ms=at_ms,
        actor="test",
        data=data_of(event),
    )
    return Fact(1, 1, envelope, event)


def activated(deployment_id: str) -> Event:
    return DeploymentActivated(deployment_id=deployment_id, pointer_revision=1, cause="deploy")


async def loaded(database: Database) -> RouteTable:
    routes = RouteTable()
    async with database.transaction() as connection:
        await projection.load(connection, routes)
    return routes


async def test_rows_never_go_back(database: Database) -> None:
    batches = [
        [fact("agt_1", 1, AgentCreated(name="a")), fact("agt_1", 2, activated("dep_1"))],
        [fact("agt_1", 3, activated("dep_2")), fact("agt_2", 1, AgentCreated(name="b"))],
    ]
    for batch in (batches[0], batches[1], batches[0]):
        async with database.transaction() as connection:
            await projection.fold(connection, batch, NOWHERE)
    routes = await loaded(database)
    assert routes.agents == {
        "agt_1": Agent(3, "usr_1", deployment_id="dep_2", name="a"),
        "agt_2": Agent(1, "usr_1", name="b"),
    }


async def test_a_gateway_that_starts_from_its_rows_knows_what_one_knows_that_followed(
    database: Database,
) -> None:
    """Every field: what a key allows and when it ends, and whose account is disabled."""
    now = now_ms()
    limits = KeyLimits(requests=5, period="day")
    created = KeyCreated(
        name="k",
        scopes=("read",),
        secret_hash="h1",
        agent_ids=("agt_1",),
        expires_at_ms=now + 60_000,
        limits=limits,
    )
    rotated = KeyRotated(secret_hash="h2", previous_expires_at_ms=now + 1_000)
    facts = [
        fact("key_1", 1, created, now),
        fact("key_1", 2, rotated, now),
        fact("key_2", 1, created, now),
        fact("key_2", 2, KeyRevoked(), now),
        fact("usr_1", 1, TierChanged(tier="pro", previous_tier="free", source="x"), now),
        fact("usr_1", 2, AccountDisabled(source="x"), now),
        fact("agt_1", 1, AgentCreated(name="a"), now),
        fact("agt_1", 2, activated("dep_1"), now),
        fact("agt_1", 3, AgentDisabled(), now),
        fact("dep_1", 1, deployment_started("agt_1"), now),
        fact(
            "dep_1",
            2,
            DeploymentSucceeded(agent_id="agt_1", worker_name="w", invoke_url="https://w"),
            now,
        ),
    ]
    followed = RouteTable()
    for one in facts:
        followed.evolve(one.envelope, one.event)
    for one in facts:  # each with the rows of before
        async with database.transaction() as connection:
            await projection.fold(connection, [one], NOWHERE)
    assert await loaded(database) == followed
    anew = RouteTable()
    anew.evolve(fact("key_9", 1, created, now).envelope, created)
    async with database.transaction() as connection:
        await projection.load(connection, anew, anew=True)
    assert anew == followed
    async with database.transaction() as connection:
        await projection.reset(connection)
    assert await loaded(database) == RouteTable()


@pytest.mark.long
@pytest.mark.quiet
async def test_a_hundred_thousand_agents_load_in_seconds(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO routed_agents SELECT 'agt_' || n, 1, 'usr_' || n, false, NULL, NULL"
                " FROM generate_series(1, 100000) n"
            )
        )
    started = time.monotonic()
    routes = await loaded(database)
    assert len(routes.agents) == 100_000
    assert time.monotonic() - started < 5


async def test_only_old_calls_that_ended_and_are_published_are_removed(database: Database) -> None:
    now = now_ms()
    old, young = now - KEPT_MS - 60_000, now - KEPT_MS + 60_000

    def invocation_id(number: int, at_ms: int) -> str:
        return ids.new_id(ids.INVOCATION, at_ms, number.to_bytes(10, "big"))

    rows = {
        "gone": (invocation_id(1, old), old - 1),
        "unpublished": (invocation_id(2, old), old),
        "open": (invocation_id(3, old), None),
        "finished late": (invocation_id(4, old), young),
        "young": (invocation_id(5, young), young),
    }
    async with database.transaction() as connection:
        for invocation, finished_at_ms in rows.values():
            await connection.execute(
                sa.text(
                    "INSERT INTO invocations VALUES"
                    " (:id, 'u', 'a', 'd', 'cloudflare', 't', '2026-11', 1, 'g', :finished)"
                ),
                {"id": invocation, "finished": finished_at_ms},
            )
        await connection.execute(
            sa.text(
                "INSERT INTO usage_outbox (gateway_id, subject, body, oldest_ms)"
                " VALUES ('g', 's', '{}', :at_ms)"
            ),
            {"at_ms": old},
        )
    assert await remove_calls(database, now - KEPT_MS) == 1
    assert await left(database, "invocations", "id") == {
        invocation for name, (invocation, _) in rows.items() if name != "gone"
    }
    async with database.transaction() as connection:
        await connection.execute(sa.text("DELETE FROM usage_outbox"))
    assert await remove_calls(database, now - KEPT_MS) == 1
    assert rows["unpublished"][0] not in await left(database, "invocations", "id")


@pytest.mark.accept("A9")
async def test_quotas_of_past_periods_are_removed(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO quotas (user_id, period_key, requests, in_flight) VALUES"
                " ('u', '2026-11', 1, 0), ('u', '2026-12', 1, 0), ('u', '2027-01', 1, 0),"
                " ('with an open call', '2026-11', 1, 1)"
            )
        )
    assert await remove_quotas(database, "2027-01") == 1
    async with database.transaction() as connection:
        found = await connection.execute(sa.text("SELECT user_id, period_key FROM quotas"))
        assert {tuple(row) for row in found} == {
            ("u", "2026-12"),
            ("u", "2027-01"),
            ("with an open call", "2026-11"),
        }


@pytest.mark.accept("A9")
async def test_routes_that_ended_are_removed_and_not_loaded(database: Database) -> None:
    now = now_ms()
    facts = [
        fact("dep_old", 1, DeploymentTornDown(agent_id="agt_1"), now - DEPLOYMENT_KEPT_MS - 1_000),
        fact("dep_young", 1, DeploymentTornDown(agent_id="agt_1"), now),
        fact("agt_old", 1, AgentDeleted(), now - AGENT_KEPT_MS - 1_000),
        fact("agt_young", 1, AgentDeleted(), now),
        fact("key_old", 1, a_key(now - KEY_KEPT_MS - 1_000), now),
        fact("key_young", 1, a_key(now - 1_000), now),
        fact("key_soon", 1, a_key(now + 1_000), now),
        fact("key_lasting", 1, a_key(None), now),
    ]
    async with database.transaction() as connection:
        await projection.fold(connection, facts, NOWHERE)
    routes = await loaded(database)
    assert (set(routes.agents), set(routes.deployments)) == ({"agt_young"}, {"dep_young"})
    kept = {"key_young", "key_soon", "key_lasting"}
    assert set(routes.keys) == kept
    assert await left(database, "routed_agents", "agent_id") == {"agt_old", "agt_young"}
    await remove_routes(database, now)
    assert await left(database, "routed_agents", "agent_id") == {"agt_young"}
    assert await left(database, "routed_deployments", "deployment_id") == {"dep_young"}
    assert await left(database, "routed_keys", "key_id") == kept


def a_key(expires_at_ms: int | None) -> KeyCreated:
    return KeyCreated(name="k", scopes=("invoke",), secret_hash="h", expires_at_ms=expires_at_ms)


async def left(database: Database, table: str, key: str) -> set[str]:
    async with database.transaction() as connection:
        return set((await connection.execute(sa.text(f"SELECT {key} FROM {table}"))).scalars())
