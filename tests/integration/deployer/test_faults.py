"""A deployer that is killed at any step is followed by one that ends in the right state."""

import pytest
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTornDown,
)
from webhost_deployer.saga import FORWARD, REMOVAL

from tests.integration.deployer.api_gate import gated
from tests.integration.deployer.harness import House, new_agent
from tests.support.deadline import eventually
from tests.support.infra import Nats, Postgres

MOMENTS = ("done", "recorded")
NOT_AN_AGENT = "export default { hello: 1 };"


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("step", FORWARD)
@pytest.mark.accept("4")
async def test_killed_while_deploying(house: House, step: str, moment: str) -> None:
    house.crash_at(f"deployer.{step}.{moment}")
    first = house.start()
    deployment = await house.deploy(new_agent())
    await house.died(first)
    house.start()
    event = await house.until_stated(deployment)

    assert isinstance(event, DeploymentSucceeded), event
    await house.until_quiet()
    assert len(house.stated(deployment)) == 7
    assert await house.scripts() == [event.worker_name]
    assert await house.routes() == [f"{house.host}/dep/{deployment}/*"]
    assert len(await house.session_workers()) == 1
    answer = await house.invoke(event.invoke_url, deployment, "again")
    assert answer.json()["output"] == {"text": "hello again"}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("step", REMOVAL)
@pytest.mark.accept("4")
async def test_killed_while_compensating(house: House, step: str, moment: str) -> None:
    house.crash_at(f"deployer.{step}.{moment}")
    first = house.start()
    deployment = await house.deploy(new_agent(), NOT_AN_AGENT)
    await house.died(first)
    house.start()
    event = await house.until_stated(deployment)

    assert isinstance(event, DeploymentFailed)
    assert event.error.step == "probe"
    assert await house.scripts() == []
    assert await house.routes() == []


@pytest.mark.parametrize(
    "point", [*(f"{step}.{moment}" for step in REMOVAL for moment in MOMENTS), "purge.done"]
)
@pytest.mark.accept("4")
async def test_killed_while_tearing_down(house: House, point: str) -> None:
    first = house.start()
    agent = new_agent()
    deployment = await house.deploy(agent)
    await house.until_stated(deployment)
    house.crash_at(f"deployer.{point}")
    await house.delete(agent)
    await house.died(first)
    house.start()
    await house.until_quiet()
    await house.until_stated(deployment, lambda event: isinstance(event, DeploymentTornDown))
    assert await house.scripts() == []
    assert await house.routes() == []


@pytest.mark.parametrize("step", ["upload", "route"])
@pytest.mark.accept("4")
async def test_killed_and_the_agent_deleted_meanwhile(house: House, step: str) -> None:
    house.crash_at(f"deployer.{step}.done")
    first = house.start()
    agent = new_agent()
    deployment = await house.deploy(agent)
    await house.died(first)
    await house.delete(agent)
    async with gated(house) as gate:
        gate.open = False
        house.start()

        async def told() -> bool:
            return house.scalar("SELECT count(*) FROM agent_teardowns") == 1

        await eventually(told, "the tombstone", seconds=30)
        gate.open = True
        await house.until_stated(deployment)
        await house.until_quiet()
    assert await house.scripts() == []
    assert await house.routes() == []
    assert house.phases() <= {"failed", "torn_down"}


@pytest.mark.accept("4")
async def test_another_deployer_takes_over_at_once(house: House) -> None:
    house.crash_at("deployer.upload.done")
    processes = [house.start(), house.start()]
    deployment = await house.deploy(new_agent())
    assert isinstance(await house.until_stated(deployment), DeploymentSucceeded)

    async def one_died() -> bool:
        return sum(process.poll() is not None for process in processes) == 1

    await eventually(one_died, "the death of one of them")
    assert len(await house.scripts()) == 1


@pytest.mark.parametrize("number", range(1, 6))
async def test_an_answer_that_is_lost_does_nothing_twice(house: House, number: int) -> None:
    """The first deployment of all asks the API five things; each answer is lost once."""
    async with gated(house) as gate:
        gate.lose = number
        house.start()
        deployment = await house.deploy(new_agent())
        event = await house.until_stated(deployment)
        assert gate.lose == 0, f"only {gate.answers} answers"
    assert isinstance(event, DeploymentSucceeded), event
    assert await house.scripts() == [event.worker_name]
    assert await house.routes() == [f"{house.host}/dep/{deployment}/*"]
    assert len(await house.session_workers()) == 1


@pytest.mark.accept("4")
async def test_postgres_dies_while_deploying(house: House, postgres_server: Postgres) -> None:
    house.start()
    deployment = await house.deploy(new_agent())
    await house.until_stated(deployment, lambda event: isinstance(event, DeploymentStepSucceeded))
    postgres_server.kill()
    postgres_server.start()
    event = await house.until_stated(deployment)
    assert isinstance(event, DeploymentSucceeded), event
    assert await house.scripts() == [event.worker_name]
    assert await house.routes() == [f"{house.host}/dep/{deployment}/*"]


@pytest.mark.accept("4")
async def test_nats_dies_while_deploying(house: House, nats_server: Nats) -> None:
    house.start()
    first = await house.deploy(new_agent())
    await house.until_stated(first, lambda event: isinstance(event, DeploymentStepSucceeded))
    nats_server.kill()
    nats_server.start()

    async def live(deployment: str) -> bool:
        query = f"SELECT phase = 'live' FROM deployments WHERE deployment_id = '{deployment}'"
        return house.scalar(query) is True

    await eventually(lambda: live(first), "the first deployment", seconds=40)
    second = await house.deploy(new_agent())
    await eventually(lambda: live(second), "a second deployment", seconds=40)
    assert len(await house.scripts()) == 2

    async def relayed() -> bool:
        return house.scalar("SELECT count(*) FROM outbox") == 0

    await eventually(relayed, "every fact on the stream", seconds=40)
