"""What a command leaves in the deployer's tables, whatever else is away."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from webhost_contracts.commands import CommandIds, TearDown, TearDownAgent
from webhost_contracts.events import DeploymentStepSucceeded
from webhost_deployer import store
from webhost_deployer.capacity import Capacity
from webhost_deployer.handlers import Handlers
from webhost_deployer.model import Deployment, Phase
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade
from webhost_kit.errors import Permanent, VersionConflict

from tests.unit.deployer.samples import AGENT, COMMAND, DEPLOYMENT

WHO = {"command_id": "cmd_2", "causation_id": "evt_2", "user_id": "usr_1", "agent_id": AGENT}
IDS = CommandIds.of(COMMAND.headers())
RETIRE = TearDown(**WHO, deployment_id=DEPLOYMENT, not_before_ms=5)
DELETE = TearDownAgent(**WHO)


class Desk:
    """The handlers on a database of their own, and how often they woke the runner."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.woken = 0
        self.handlers = Handlers(database, 7, None, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    async def state(self) -> Deployment | None:
        async with self.database.transaction() as connection:
            return await store.load(connection, DEPLOYMENT)

    async def due_agents(self) -> list[str]:
        async with self.database.transaction() as connection:
            due = await store.due_agents(connection, now_ms(), per_user=1)
            assert not any(it.in_work for it in due)
            return [it.agent_id for it in due]

    async def event_types(self) -> list[str]:
        async with self.database.transaction() as connection:
            result = await connection.execute(text("SELECT type FROM events ORDER BY version"))
            return list(result.scalars())


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    upgrade(database_url, "webhost_deployer")
    database = Database(database_url)
    yield Desk(database)
    await database.close()


async def test_a_deployment_is_taken_on_once(desk: Desk) -> None:
    await desk.handlers.deploy(COMMAND)
    await desk.handlers.deploy(COMMAND)
    state = await desk.state()
    assert state is not None
    assert (state.phase, state.version, state.plan.key_version) == (Phase.DEPLOYING, 1, 7)
    assert await desk.event_types() == ["deployment.started.v1"]
    assert await desk.due_agents() == [AGENT]
    assert desk.woken == 2


@pytest.mark.accept("8.dead-letter")
async def test_a_dead_command_fails_its_deployment(desk: Desk) -> None:
    await desk.handlers.deploy_is_dead(IDS)
    state = await desk.state()
    assert state is not None
    assert state.phase is Phase.FAILED
    assert await desk.event_types() == ["deployment.failed.v1"]
    assert await desk.due_agents() == []


async def test_a_command_that_dies_later_leaves_the_deployment_alone(desk: Desk) -> None:
    await desk.handlers.deploy(COMMAND)
    await desk.handlers.deploy_is_dead(IDS)
    assert await desk.event_types() == ["deployment.started.v1"]


async def test_no_deployment_of_a_deleted_agent(desk: Desk) -> None:
    await desk.handlers.tear_down_agent(DELETE)
    await desk.handlers.deploy(COMMAND)
    state = await desk.state()
    assert state is not None
    assert state.phase is Phase.FAILED


async def test_a_command_that_comes_again_states_nothing_again(desk: Desk) -> None:
    for _ in range(3):
        await desk.handlers.deploy(COMMAND)
        await desk.handlers.tear_down(RETIRE)
        await desk.handlers.tear_down_agent(DELETE)
    assert sorted(await desk.event_types()) == [
        "deployment.started.v1",
        "deployment.teardown_scheduled.v1",
        "teardown.started.v1",
    ]


async def test_an_outcome_does_not_overwrite_what_was_decided_meanwhile(desk: Desk) -> None:
    await desk.handlers.deploy(COMMAND)
    before = await desk.state()
    assert before is not None
    await desk.handlers.tear_down_agent(DELETE)
    done = DeploymentStepSucceeded(agent_id=AGENT, step="validate", attempt=1, started_at_ms=1)
    with pytest.raises(VersionConflict):
        async with desk.database.transaction() as connection:
            await store.append(connection, before, [done], now_ms())
    state = await desk.state()
    assert state is not None
    assert state.tear_down_at_ms is not None
    assert state.done == ()
    assert await desk.due_agents() == [AGENT]


async def test_all_facts_of_an_agent_are_on_one_subject(desk: Desk) -> None:
    await desk.handlers.deploy(COMMAND)
    await desk.handlers.tear_down_agent(DELETE)
    async with desk.database.transaction() as connection:
        result = await connection.execute(text("SELECT DISTINCT subject FROM outbox"))
        assert list(result.scalars()) == [f"evt.usr_1.deployment.{AGENT}"]


async def test_an_earlier_teardown_stands(desk: Desk) -> None:
    await desk.handlers.deploy(COMMAND)
    await desk.handlers.tear_down(RETIRE)
    await desk.handlers.tear_down(replace(RETIRE, not_before_ms=10**15))
    state = await desk.state()
    assert state is not None
    assert state.tear_down_at_ms == 5


async def test_a_teardown_of_nothing_known_is_a_dead_letter(desk: Desk) -> None:
    with pytest.raises(Permanent):
        await desk.handlers.tear_down(RETIRE)


async def test_a_purge_that_waits_for_a_removal_is_not_due(desk: Desk) -> None:
    await desk.handlers.deploy(COMMAND)
    await desk.handlers.tear_down_agent(DELETE)
    state = await desk.state()
    assert state is not None
    later = replace(state, phase=Phase.COMPENSATING, retry_at_ms=now_ms() + 600_000)
    async with desk.database.transaction() as connection:
        await store.save(connection, later)
    assert await desk.due_agents() == []

    async with desk.database.transaction() as connection:
        await store.save(connection, replace(later, phase=Phase.FAILED))
    assert await desk.due_agents() == [AGENT]


@pytest.mark.accept("6.C2.scripts")
async def test_of_two_that_are_validated_at_once_one_finds_room(desk: Desk) -> None:
    """The one with the smaller id, whichever of them looks first."""
    commands = [
        replace(COMMAND, deployment_id=f"{DEPLOYMENT[:-1]}{last}", agent_id=f"{AGENT[:-1]}{last}")
        for last in "ba"
    ]
    for command in commands:
        await desk.handlers.deploy(command)
    capacity = Capacity(desk.database, 1)
    problems: list[str | None] = []
    for command in commands:
        async with desk.database.transaction() as connection:
            state = await store.load(connection, command.deployment_id)
        assert state is not None
        problems.append(await capacity.problem_of(state))
    assert problems[1] is None
    assert "room for 1 deployments" in (problems[0] or "")
