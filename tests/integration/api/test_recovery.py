"""Recovering the api's own facts into an empty database restores its rows."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from webhost_api.commands import Commands
from webhost_api.reactor import Reactor
from webhost_api.recovery import TYPES, recover
from webhost_contracts import subjects, wire
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    EVENT_TYPES,
    DeploymentFailed,
    DeploymentTeardownScheduled,
    DeploymentTornDown,
    Envelope,
    TeardownStarted,
)
from webhost_contracts.events.base import by_name
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.eventsourcing.facts import Fact

from tests.integration.api.harness import Harness, User, ok
from tests.integration.api.test_deploying import deployed, until_status
from tests.support.deadline import eventually
from tests.support.facts import deployment_started

TABLES = ("users", "agents", "deployments", "api_keys")
KEEP = 2


async def live(harness: Harness, user: User) -> None:
    """A whole life of one agent, another one that takes over the name it gave up, and two keys."""
    agent_id = (await user.create(name="x", description="d", envVarKeys=["A"]))["id"]
    path = f"/v1/agents/{agent_id}"
    made = [await deployed(harness, user, agent_id) for _ in range(KEEP + 1)]
    scheduled = DeploymentTeardownScheduled(agent_id=agent_id, not_before_ms=1)
    await harness.given(user.id, made[0]["id"], scheduled, version=5)
    await harness.given(user.id, made[0]["id"], DeploymentTornDown(agent_id=agent_id), version=6)
    await until_status(user, made[0]["id"], "deleted")
    ok(await user.http.post(f"{path}/deployments/{made[1]['id']}/activate"))
    failing = await user.deploy(agent_id)
    error = DeploymentError(step="probe", message="no")
    await harness.given(
        user.id, failing["id"], DeploymentFailed(agent_id=agent_id, error=error), version=2
    )
    await until_status(user, failing["id"], "failed")
    ok(await user.http.patch(path, json={"name": "y"}))
    ok(await user.http.post(f"{path}/disable"))
    ok(await user.http.post(f"{path}/enable"))

    heir_id = (await user.create(name="x"))["id"]
    running = await user.deploy(heir_id)
    await harness.given(user.id, running["id"], deployment_started(heir_id))
    ok(await user.http.delete(path))
    await harness.given(user.id, agent_id, TeardownStarted(agent_id=agent_id))

    ended, key = await user.key(), await user.key("invoke", agentIds=[heir_id])
    ok(await user.http.post(f"/v1/keys/{key.id}/rotate"))
    ok(await user.http.delete(f"/v1/keys/{ended.id}"), 204)

    async def folded() -> bool:
        query = "SELECT count(*) FROM agents WHERE state ? 'teardown_started'"
        with psycopg.connect(harness.dsn) as connection:
            return connection.execute(query).fetchone() == (1,)

    await eventually(folded, "the last fact to be folded")


def rows(dsn: str) -> dict[str, list[dict[str, Any]]]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in TABLES
        }


def own_facts(dsn: str) -> list[Fact]:
    with psycopg.connect(dsn) as connection:
        query = "SELECT envelope FROM events ORDER BY occurred_at_ms, version"
        found = connection.execute(query).fetchall()
    return [fact_of(bytes(envelope)) for (envelope,) in found]


def fact_of(body: bytes) -> Fact:
    envelope = wire.decode(body, Envelope)
    event = envelope.event(by_name(*EVENT_TYPES))
    assert event is not None
    return Fact(1, envelope.occurred_at_ms, envelope, event)


async def deployers_facts(harness: Harness) -> list[Fact]:
    subscription = await harness.bus.js.subscribe(
        subjects.events_of_kind("deployment"), ordered_consumer=True
    )
    found: list[Fact] = []
    while True:
        message = await subscription.next_msg(timeout=5)
        found.append(fact_of(message.data))
        if message.metadata.num_pending == 0:
            await subscription.unsubscribe()
            return found


@pytest.fixture
async def empty(database_url: str) -> AsyncIterator[Database]:
    """The api's tables without a row."""
    upgrade(database_url, "webhost_api")
    database = Database(database_url)
    yield database
    await database.close()


@pytest.mark.parametrize("newest_agent_first", [False, True])
async def test_a_whole_life_is_taken_back(
    own_harness: Harness, empty: Database, newest_agent_first: bool
) -> None:
    harness = own_harness
    await harness.service.kill()
    await harness.start(KEEP_DEPLOYMENTS=str(KEEP))
    await live(harness, harness.user())
    facts = own_facts(harness.dsn)
    assert {kind for fact in facts if (kind := fact.event.type_name())} == set(TYPES)
    if newest_agent_first:
        facts.sort(key=lambda fact: fact.envelope.version)
        facts.sort(key=lambda fact: fact.envelope.aggregate_id, reverse=True)

    for _ in range(2):  # the second time, everything is there
        for fact in facts:
            async with empty.transaction() as connection:
                await recover(connection, fact)
    reactor = Reactor(keep_deployments=KEEP, commands=Commands(longest_call_ms=1))
    async with empty.transaction() as connection:
        await reactor.fold(connection, await deployers_facts(harness), Checkpoint("", 0, None))
        stated = await connection.exec_driver_sql("SELECT count(*) FROM outbox")
        assert stated.scalar() == 0
    assert rows(empty.dsn) == rows(harness.dsn)


async def test_a_gap_is_refused(own_harness: Harness, empty: Database) -> None:
    user = own_harness.user()
    agent = await user.create(name="x")
    ok(await user.http.patch(f"/v1/agents/{agent['id']}", json={"name": "y"}))
    updated = own_facts(own_harness.dsn)[-1]
    with pytest.raises(RuntimeError, match="version 2"):
        async with empty.transaction() as connection:
            await recover(connection, updated)
