"""One user's work, however much, leaves others' deployments their turn."""

import asyncio

import pytest
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStarted,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    TeardownFinished,
    TeardownStarted,
)
from webhost_deployer.runner import CONCURRENCY
from webhost_kit.bus.commands import PULL_TIMEOUT_S
from webhost_kit.tasks import cancel

from tests.integration.deployer.api_gate import gated
from tests.integration.deployer.harness import Harness, new_agent
from tests.support.deadline import eventually

OTHER = "usr_other"


async def flood(harness: Harness, *, deployers: int = 1) -> list[str]:
    """Deploy twice as many agents of one user as there are slots."""
    many = 2 * CONCURRENCY * deployers
    return [await harness.deploy(new_agent()) for _ in range(many)]


async def until_held(harness: Harness, at_least: int) -> None:
    """Return when that many agents are in work."""

    async def held() -> bool:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'lock agent %'"
        )
        return await harness.scalar(query) >= at_least

    await eventually(held, f"{at_least} agents in work", seconds=20)


@pytest.mark.accept("6.C2.fair")
@pytest.mark.parametrize("deployers", [1, 2])
async def test_another_users_deploy_passes_a_flood_that_hangs(
    harness: Harness, deployers: int
) -> None:
    async with gated(harness) as gate:
        for _ in range(deployers):
            await harness.start()
        gate.flowing.clear()
        await flood(harness, deployers=deployers)
        await until_held(harness, deployers * (CONCURRENCY - 1))
        other = await harness.deploy(new_agent(), user_id=OTHER)
        # Whatever Cloudflare is slow with: the other's work has begun, and is where the flood is.
        validated = await harness.until_stated(
            other, lambda e: isinstance(e, DeploymentStepSucceeded), seconds=10
        )
        assert isinstance(validated, DeploymentStepSucceeded)
        gate.flowing.set()
        ended = await harness.until_stated(other)
        assert isinstance(ended, DeploymentSucceeded), ended


@pytest.mark.accept("6.C2.fair")
async def test_what_another_deployer_is_at_counts_across_processes(harness: Harness) -> None:
    """Who has a slot in one process has none in the other, as long as somebody else has work."""
    async with gated(harness) as gate:
        await harness.start()
        gate.flowing.clear()
        await harness.deploy(new_agent(), user_id=OTHER)
        await until_held(harness, 1)
        await flood(harness, deployers=2)
        await until_held(harness, 2)
        await (await harness.start()).until_ready()

        async def both_look() -> bool:
            due = "SELECT count(*) FROM deployments WHERE due_at_ms IS NOT NULL"
            return await harness.scalar(due) == 4 * CONCURRENCY + 1

        await eventually(both_look, "all commands to be taken", seconds=20)
        held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        for _ in range(30):  # longer than both processes need to look
            named = " AND application_name LIKE 'lock agent %'"
            assert await harness.scalar(held + named) <= 2
            await asyncio.sleep(0.1)
        gate.flowing.set()


@pytest.mark.accept("6.C2.fair")
async def test_more_users_than_slots_all_get_their_turn(harness: Harness) -> None:
    """Every slot is taken, so whoever has several gives them up at the end of a step."""
    async with gated(harness) as gate:
        await harness.start()
        gate.flowing.clear()
        flooding = await flood(harness)
        await until_held(harness, CONCURRENCY - 1)
        others = [
            await harness.deploy(new_agent(), user_id=f"usr_{number}")
            for number in range(CONCURRENCY - 1)
        ]
        await until_held(harness, CONCURRENCY)
        gate.flowing.set()
        ended = await asyncio.gather(*map(harness.until_stated, others))
        assert all(isinstance(it, DeploymentSucceeded) for it in ended), ended
        first_steps = {
            about: number
            for number, (about, event) in reversed([*enumerate(harness.events)])
            if about in others and isinstance(event, DeploymentStepSucceeded)
        }
        before = harness.events[: max(first_steps.values())]
        passed = sum(
            about in flooding and isinstance(it, DeploymentSucceeded) for about, it in before
        )
        assert passed < CONCURRENCY / 2, "the others waited for the end of deployments in work"


@pytest.mark.accept("6.C2.no-work")
async def test_a_deletion_of_what_never_was_deployed_asks_cloudflare_nothing(
    harness: Harness,
) -> None:
    async with gated(harness) as gate:
        await harness.start()

        async def looked() -> bool:
            return gate.answers > 0

        await eventually(looked, "the deployer to look once for scripts of its own")
        agents = [new_agent() for _ in range(50)]
        for agent in agents:
            await harness.delete(agent)
        for agent in agents:
            await harness.until_stated(agent, lambda e: isinstance(e, TeardownFinished))
            assert [type(it) for it in harness.stated(agent)] == [TeardownStarted, TeardownFinished]
        assert (gate.answers, gate.refused) == (1, 0)
        # The deploy command came late: it fails at once, and leaves nothing to be purged.
        late = await harness.deploy(agents[0])
        assert isinstance(await harness.until_stated(late), DeploymentFailed)
        await harness.until_quiet()
        assert gate.answers == 1


@pytest.mark.accept("6.C2.scripts")
async def test_a_deployment_beyond_the_accounts_room_is_refused_before_cloudflare_is_asked(
    harness: Harness,
) -> None:
    harness.env["CLOUDFLARE_MAX_SCRIPTS"] = "6"
    async with gated(harness) as gate:
        await harness.start()
        kept = [new_agent(), new_agent()]
        for agent in kept:
            live = await harness.until_stated(await harness.deploy(agent))
            assert isinstance(live, DeploymentSucceeded), live
        asked = gate.answers
        at_once = [await harness.deploy(new_agent(), user_id=OTHER) for _ in range(3)]
        for deployment in at_once:
            refused = await harness.until_stated(deployment)
            assert isinstance(refused, DeploymentFailed), refused
            assert refused.error.step == "validate"
            assert "room for 2 deployments" in refused.error.message
            assert "Delete agents" in refused.error.message
        assert gate.answers == asked

        await harness.delete(kept[0])
        await harness.until_quiet()
        at_once = [await harness.deploy(new_agent(), user_id=OTHER) for _ in range(3)]
        ended = [await harness.until_stated(deployment) for deployment in at_once]
        assert [isinstance(it, DeploymentSucceeded) for it in ended].count(True) == 1


async def test_a_deploy_command_does_not_wait_for_others(harness: Harness) -> None:
    """While commands of another kind keep coming, each deploy command is taken at once."""
    await (await harness.start()).until_ready()

    async def keep_deleting() -> None:
        while True:
            await harness.delete(new_agent())
            await asyncio.sleep(0.05)

    deleting = asyncio.create_task(keep_deleting())
    try:
        await asyncio.sleep(PULL_TIMEOUT_S + 1)  # a pull request has expired without a command
        for _ in range(10):
            await asyncio.sleep(0.5)
            deployment = await harness.deploy(new_agent())
            await harness.until_stated(
                deployment, lambda event: isinstance(event, DeploymentStarted), seconds=1.5
            )
    finally:
        await cancel(deleting)
