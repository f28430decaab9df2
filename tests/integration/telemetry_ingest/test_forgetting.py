"""A deployment is remembered for as long as its reports may come, in memory and in the table."""

from collections.abc import AsyncIterator

import pytest
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import DeploymentFailed, DeploymentTornDown, Event
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.eventsourcing.facts import Fact
from webhost_telemetry_ingest import projection
from webhost_telemetry_ingest.model import KEPT_MS, Deployments

from tests.support.facts import deployment_started, envelope

ENDED_MS = 1_000_000
NOWHERE = Checkpoint("now", 1, None)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    upgrade(database_url, "webhost_telemetry_ingest")
    database = Database(database_url)
    yield database
    await database.close()


def fact(deployment_id: str, version: int, event: Event) -> Fact:
    stated = envelope("usr_1", deployment_id, event, version=version, at_ms=ENDED_MS)
    return Fact(version, 1, stated, event)


FAILED = DeploymentFailed(agent_id="agt_1", error=DeploymentError(step="probe", message="no"))
HISTORY = [
    fact("dep_live", 1, deployment_started("agt_1")),
    fact("dep_ended", 1, deployment_started("agt_1")),
    fact("dep_failed", 1, deployment_started("agt_1")),
    fact("dep_ended", 5, DeploymentTornDown(agent_id="agt_1")),
    fact("dep_failed", 3, FAILED),
    fact("dep_unknown", 1, FAILED),
]


async def loaded(database: Database) -> Deployments:
    known = Deployments()
    async with database.transaction() as connection:
        await projection.load(connection, known)
    return known


@pytest.mark.accept("A9")
@pytest.mark.parametrize("batch", [1, 2, len(HISTORY)])
async def test_what_ended_long_ago_is_forgotten(database: Database, batch: int) -> None:
    memory = Deployments()
    for start in (*range(0, len(HISTORY), batch), 0):
        facts = HISTORY[start : start + batch]
        for one in facts:
            memory.evolve(one.envelope, one.event)
        async with database.transaction() as connection:
            await projection.fold(connection, facts, NOWHERE)
    assert (await loaded(database)).by_id == memory.by_id
    assert set(memory.by_id) == {"dep_live", "dep_ended", "dep_failed"}

    retention = projection.Retention(database, memory)
    await retention.once(ENDED_MS + KEPT_MS)
    assert len(memory.by_id) == 3
    await retention.once(ENDED_MS + KEPT_MS + 1)
    assert set(memory.by_id) == {"dep_live"}
    assert (await loaded(database)).by_id == memory.by_id
