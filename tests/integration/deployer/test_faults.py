"""A deployer that dies, hangs or hears nothing is followed by one that ends in the right state.

`test_kill_matrix.py` has its deaths at every point.
"""

import signal

import pytest
from webhost_contracts.events import (
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTornDown,
)
from webhost_contracts.events.base import Event

from tests.integration.deployer.api_gate import gated
from tests.integration.deployer.harness import Harness, new_agent
from tests.support.deadline import eventually
from tests.support.infra import Nats, Postgres

IN_USE, RETIRED = "CLOUDFLARE_DISPATCH_NAMESPACE", "CLOUDFLARE_RETIRED_DISPATCH_NAMESPACE"


@pytest.mark.parametrize("step", ["session_store", "probe"])
@pytest.mark.parametrize("way", [IN_USE, RETIRED])
@pytest.mark.accept("6.2")
async def test_a_deploy_under_way_stays_in_the_layout_that_it_began_in(
    harness: Harness, step: str, way: str
) -> None:
    """Also where its address is another one in each of them."""
    for name in ("CLOUDFLARE_ZONE_ID", "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN"):
        del harness.env[name]
    harness.env["CLOUDFLARE_WORKERS_DEV_SUBDOMAIN"] = harness.edge.subdomain
    namespace = f"layouts-{step.replace('_', '-')}"
    if way == RETIRED:
        harness.env[IN_USE] = namespace
    harness.crash_at(f"deployer.{step}.recorded")
    first = await harness.start()
    deployment = await harness.deploy(new_agent())
    await first.died()
    harness.env.pop(IN_USE, None)
    harness.env[way] = namespace
    await harness.start()
    event = await harness.until_stated(deployment)

    assert isinstance(event, DeploymentSucceeded), event
    answer = await harness.invoke(event.invoke_url, deployment, "again")
    assert answer.json()["output"] == {"text": "hello again"}


@pytest.mark.parametrize("step", ["upload", "route"])
@pytest.mark.accept("4")
async def test_killed_and_the_agent_deleted_meanwhile(harness: Harness, step: str) -> None:
    harness.crash_at(f"deployer.{step}.done")
    first = await harness.start()
    agent = new_agent()
    deployment = await harness.deploy(agent)
    await first.died()
    await harness.delete(agent)
    async with gated(harness) as gate:
        gate.open = False
        await harness.start()

        async def began() -> bool:
            return await harness.scalar("SELECT count(*) FROM agent_teardowns") == 1

        await eventually(began, "the teardown", seconds=30)
        gate.open = True
        await harness.until_stated(deployment)
        await harness.until_quiet()
    assert await harness.scripts() == []
    assert await harness.routes() == []
    assert await harness.phases() <= {"failed", "torn_down"}


@pytest.mark.accept("4")
async def test_another_deployer_takes_over_at_once(harness: Harness) -> None:
    harness.crash_at("deployer.upload.done")
    processes = [await harness.start(), await harness.start()]
    deployment = await harness.deploy(new_agent())
    assert isinstance(await harness.until_stated(deployment), DeploymentSucceeded)

    async def one_died() -> bool:
        return sum(not process.running for process in processes) == 1

    await eventually(one_died, "the death of one of them")
    assert len(await harness.scripts()) == 1


@pytest.mark.accept("4")
async def test_a_frozen_deployer_is_replaced_within_ten_seconds(harness: Harness) -> None:
    async with gated(harness) as gate:
        gate.flowing.clear()
        frozen = await harness.start()

        async def takes_commands() -> bool:
            return harness.logged("own facts compared with the stream") == 1

        await eventually(takes_commands, "the first deployer to take commands", seconds=30)
        before = gate.held_back
        deployment = await harness.deploy(new_agent())

        async def under_way() -> bool:
            return gate.held_back > before

        await eventually(under_way, "a step that waits for Cloudflare", seconds=30)
        await harness.start()

        async def both_there() -> bool:
            return harness.logged("started") == 2

        await eventually(both_there, "the second deployer", seconds=30)
        frozen.send_signal(signal.SIGSTOP)
        gate.flowing.set()

        def past_the_step(event: Event) -> bool:
            return isinstance(event, DeploymentStepSucceeded) and event.step == "session_store"

        await harness.until_stated(deployment, past_the_step, seconds=10)
        event = await harness.until_stated(deployment)
        assert isinstance(event, DeploymentSucceeded), event

        frozen.send_signal(signal.SIGCONT)

        async def awake() -> bool:
            return harness.logged("work interrupted") >= 1

        await eventually(awake, "the first deployer's loss of its lock", seconds=15)
        await harness.until_quiet()
    assert frozen.running
    assert len(harness.stated(deployment)) == 8
    assert await harness.scripts() == [event.worker_name]
    assert len(await harness.session_workers()) == 1


@pytest.mark.parametrize("number", range(1, 6))
async def test_an_answer_that_is_lost_does_nothing_twice(harness: Harness, number: int) -> None:
    """The first five of a first deployment's calls; `test_fault_matrix.py` has all."""
    async with gated(harness) as gate:
        gate.lose = number
        await harness.start()
        deployment = await harness.deploy(new_agent())
        event = await harness.until_stated(deployment)
        assert gate.lose == 0, f"only {gate.answers} answers"
    assert isinstance(event, DeploymentSucceeded), event
    assert await harness.scripts() == [event.worker_name]
    assert await harness.routes() == [f"{harness.host}/dep/{deployment}/*"]
    assert len(await harness.session_workers()) == 1


@pytest.mark.accept("8.purge")
async def test_sessions_are_purged_only_when_nothing_runs_any_more(harness: Harness) -> None:
    async with gated(harness) as gate:
        await harness.start()
        agent = new_agent()
        deployment = await harness.deploy(agent)
        assert isinstance(await harness.until_stated(deployment), DeploymentSucceeded)
        # The removal of the route fails once; until it is tried again nothing is due.
        gate.lose = gate.answers + 1
        await harness.delete(agent)
        await harness.until_stated(deployment, lambda e: isinstance(e, DeploymentStepFailed))
        await harness.until_stated(deployment, lambda e: isinstance(e, DeploymentTornDown))
        await harness.until_quiet()
    ended = await harness.rows(
        "SELECT type FROM events WHERE type IN ('deployment.torn_down.v1', 'teardown.finished.v1')"
        " ORDER BY occurred_at_ms"
    )
    assert [row["type"] for row in ended] == ["deployment.torn_down.v1", "teardown.finished.v1"]


@pytest.mark.accept("4")
async def test_postgres_dies_while_deploying(harness: Harness, postgres_server: Postgres) -> None:
    await harness.start()
    deployment = await harness.deploy(new_agent())
    await harness.until_stated(deployment, lambda event: isinstance(event, DeploymentStepSucceeded))
    postgres_server.kill()
    postgres_server.start()
    event = await harness.until_stated(deployment)
    assert isinstance(event, DeploymentSucceeded), event
    assert await harness.scripts() == [event.worker_name]
    assert await harness.routes() == [f"{harness.host}/dep/{deployment}/*"]


@pytest.mark.accept("4")
async def test_nats_dies_while_deploying(harness: Harness, nats_server: Nats) -> None:
    await harness.start()
    first = await harness.deploy(new_agent())
    await harness.until_stated(first, lambda event: isinstance(event, DeploymentStepSucceeded))
    nats_server.kill()
    nats_server.start()

    async def live(deployment: str) -> bool:
        query = f"SELECT phase = 'live' FROM deployments WHERE deployment_id = '{deployment}'"
        return await harness.scalar(query) is True

    await eventually(lambda: live(first), "the first deployment", seconds=40)
    second = await harness.deploy(new_agent())
    await eventually(lambda: live(second), "a second deployment", seconds=40)
    assert len(await harness.scripts()) == 2

    async def relayed() -> bool:
        return await harness.scalar("SELECT count(*) FROM outbox") == 0

    await eventually(relayed, "every fact on the stream", seconds=40)
