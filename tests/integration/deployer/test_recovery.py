"""After a restore, the deployer's own facts make its rows what they were."""

from typing import Any

import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.events import DeploymentFailed, DeploymentSucceeded, Envelope
from webhost_deployer.recovery import TYPES, recover
from webhost_kit.eventsourcing.facts import Fact

from tests.integration.deployer.harness import Harness, new_agent
from tests.support.deadline import eventually

ROWS = {
    "deployments": "SELECT * FROM deployments ORDER BY deployment_id",
    "agent_teardowns": "SELECT * FROM agent_teardowns ORDER BY agent_id",
}


async def rows(harness: Harness) -> dict[str, list[dict[str, Any]]]:
    """What follows from facts: when a deployment's first step was begun does not."""
    found = {table: await harness.rows(query) for table, query in ROWS.items()}
    for row in found["deployments"]:
        del row["began_at_ms"]
    return found


async def stated(harness: Harness) -> list[Fact]:
    """All that the deployer put on the stream, in the stream's order."""
    last = (await harness.bus.js.stream_info(subjects.EVENTS)).state.last_seq
    facts: list[Fact] = []
    for sequence in range(1, last + 1):
        message = await harness.bus.js.get_msg(subjects.EVENTS, sequence)
        envelope = wire.decode(message.data or b"", Envelope)
        event = envelope.event(TYPES)
        assert event is not None
        facts.append(Fact(sequence, envelope.occurred_at_ms, envelope, event))
    return facts


@pytest.fixture
async def lived_through(harness: Harness) -> Harness:
    """A deleted agent, one whose deployment failed, one that is live and one to be retired."""
    deployer = await harness.start()
    deleted, broken, live = new_agent(), new_agent(), new_agent()
    first, second = await harness.deploy(deleted), await harness.deploy(live)
    third = await harness.deploy(broken, "export default { hello: 1 };")
    assert isinstance(await harness.until_stated(first), DeploymentSucceeded)
    assert isinstance(await harness.until_stated(second), DeploymentSucceeded)
    assert isinstance(await harness.until_stated(third), DeploymentFailed)
    await harness.delete(deleted)
    await harness.until_quiet()
    await harness.tear_down(live, second, not_before_ms=10**15)
    await harness.until_stated(second, lambda event: event.type_name().endswith("scheduled.v1"))
    await deployer.kill()
    return harness


async def test_rows_are_folds_of_the_deployers_own_facts(lived_through: Harness) -> None:
    before = await rows(lived_through)
    assert len(before["deployments"]) == 3
    assert len(before["agent_teardowns"]) == 1
    facts = await stated(lived_through)
    await lived_through.execute("TRUNCATE deployments, agent_teardowns")
    for _ in range(2):
        async with lived_through.database.transaction() as connection:
            for fact in facts:
                await recover(connection, fact)
        assert await rows(lived_through) == before


async def test_rows_go_on_where_an_older_backup_stopped(lived_through: Harness) -> None:
    before = await rows(lived_through)
    facts = await stated(lived_through)
    await lived_through.execute("TRUNCATE deployments, agent_teardowns")
    async with lived_through.database.transaction() as connection:
        for fact in facts[: len(facts) // 2]:
            await recover(connection, fact)
    assert await rows(lived_through) != before
    async with lived_through.database.transaction() as connection:
        for fact in facts:
            await recover(connection, fact)
    assert await rows(lived_through) == before


async def test_a_deployer_on_an_older_database_takes_its_facts_back(lived_through: Harness) -> None:
    before = await rows(lived_through)
    last = (await lived_through.bus.js.stream_info(subjects.EVENTS)).state.last_seq
    await lived_through.execute(
        "TRUNCATE deployments, agent_teardowns, events, outbox, checkpoints, parked_events"
    )
    await lived_through.start()

    async def as_before() -> bool:
        return await rows(lived_through) == before

    await eventually(as_before, "the rows of before", seconds=30)
    assert await lived_through.scalar("SELECT count(*) FROM events") == last
    deployment = await lived_through.deploy(new_agent())
    assert isinstance(await lived_through.until_stated(deployment), DeploymentSucceeded)
    for row in before["agent_teardowns"]:
        late = await lived_through.deploy(row["agent_id"])
        assert isinstance(await lived_through.until_stated(late), DeploymentFailed)
