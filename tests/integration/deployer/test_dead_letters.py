"""A command that cannot be handled: its tries, its dead letter, its deployment, its replay.

What makes handling fail is a constraint that the test adds to the deployer's own tables.
"""

import os
import subprocess
import sys

import pytest
from nats.js.api import RawStreamMsg
from webhost_contracts import subjects
from webhost_contracts.commands import DEPLOY, TEAR_DOWN_AGENT
from webhost_contracts.events import DeploymentFailed, DeploymentSucceeded, DeploymentTornDown
from webhost_kit.bus.commands import MAX_TRIES

from tests.integration.deployer.harness import Harness, new_agent
from tests.support.deadline import eventually
from tests.support.infra import Postgres

TRIES_S = 60.0
"""All tries of one command, with the pauses between them."""


async def refuse(harness: Harness, table: str, condition: str) -> None:
    """Let the table take no row for which the condition does not hold, from now on."""
    await harness.execute(
        f"ALTER TABLE {table} ADD CONSTRAINT broken CHECK ({condition}) NOT VALID"
    )


async def allow(harness: Harness, table: str) -> None:
    await harness.execute(f"ALTER TABLE {table} DROP CONSTRAINT broken")


async def dead_letter(harness: Harness, verb: str, agent: str = "*") -> RawStreamMsg:
    subject = subjects.dead_letter(f"cmd.deployer.{verb}.{agent}")

    async def there() -> bool:
        info = await harness.bus.js.stream_info(subjects.DEAD_LETTERS, subjects_filter=subject)
        return bool(info.state.subjects)

    await eventually(there, "a dead letter", seconds=TRIES_S)
    return await harness.bus.js.get_last_msg(subjects.DEAD_LETTERS, subject)


def webhost(harness: Harness, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "webhost_cli", "deadletters", *arguments],
        env=os.environ | {"NATS_URL": harness.nats_url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def no_dead_letters(harness: Harness) -> bool:
    return (await harness.bus.js.stream_info(subjects.DEAD_LETTERS)).state.messages == 0


@pytest.mark.long
async def test_a_deployment_whose_command_can_not_be_handled_fails(harness: Harness) -> None:
    process = await harness.start()
    await process.until_ready()
    await refuse(harness, "deployments", "phase <> 'deploying'")
    agent = new_agent()
    deployment = await harness.deploy(agent)
    event = await harness.until_stated(deployment, seconds=TRIES_S)
    assert isinstance(event, DeploymentFailed)
    assert event.error.message == "The deploy command could not be handled."
    letter = await dead_letter(harness, DEPLOY)
    assert "CheckViolation" in (letter.headers or {})[subjects.DEAD_REASON_HEADER]
    assert harness.logged("command failed") == MAX_TRIES
    assert process.running

    await allow(harness, "deployments")
    assert "replayed" in webhost(harness, "replay", str(letter.seq))
    await harness.until_quiet()
    # What has failed stays so; the api deploys anew.
    assert harness.stated(deployment) == [event]
    assert await no_dead_letters(harness)
    again = await harness.until_stated(await harness.deploy(agent))
    assert isinstance(again, DeploymentSucceeded), again


@pytest.mark.long
async def test_a_teardown_that_is_replayed_is_done(harness: Harness) -> None:
    await harness.start()
    agent = new_agent()
    deployment = await harness.deploy(agent)
    assert isinstance(await harness.until_stated(deployment), DeploymentSucceeded)
    await refuse(harness, "agent_teardowns", "false")
    await harness.delete(agent)
    letter = await dead_letter(harness, TEAR_DOWN_AGENT)
    assert await harness.phases() == {"live"}

    await allow(harness, "agent_teardowns")
    webhost(harness, "replay", str(letter.seq))
    await harness.until_stated(deployment, lambda e: isinstance(e, DeploymentTornDown))
    assert await harness.scripts() == []
    assert await no_dead_letters(harness)


async def test_an_undecodable_command_fails_its_deployment(harness: Harness) -> None:
    await harness.start()
    for body in (b"\xff", b"[]", b'{"type": "deployment.deploy.v1"}'):
        agent = new_agent()
        command = await harness.deploy_command(agent)
        subject = subjects.command("deployer", DEPLOY, agent)
        await harness.bus.js.publish(subject, body, headers=command.headers())
        event = await harness.until_stated(command.deployment_id)
        assert isinstance(event, DeploymentFailed)
        letter = await dead_letter(harness, DEPLOY, agent)
        assert (letter.headers or {})[subjects.DEAD_REASON_HEADER].startswith("undecodable")
        assert letter.data == body


async def test_time_away_uses_up_no_tries(harness: Harness, postgres_server: Postgres) -> None:
    deployer = await harness.start()
    await deployer.until_ready()
    await refuse(harness, "deployments", "phase <> 'deploying'")
    command = await harness.deploy_command(new_agent())

    async def waited() -> bool:
        return harness.logged("command waits") > MAX_TRIES

    postgres_server.kill()
    try:
        await harness.send(DEPLOY, command.agent_id, command)
        await eventually(waited, "more deliveries than there are tries", seconds=90)
    finally:
        postgres_server.start()

    async def failed_once() -> bool:
        return harness.logged("command failed") >= 1

    await eventually(failed_once, "the first failure of its own", seconds=60)
    await allow(harness, "deployments")
    event = await harness.until_stated(command.deployment_id)
    assert isinstance(event, DeploymentSucceeded), event
    assert await no_dead_letters(harness)


@pytest.mark.accept("6.C3.streams")
async def test_a_deployer_that_cannot_store_dead_letters_is_not_ready(harness: Harness) -> None:
    deployer = await harness.start()
    await deployer.until_ready()
    config = (await harness.bus.js.stream_info(subjects.DEAD_LETTERS)).config
    await harness.bus.js.update_stream(config.evolve(max_msg_size=1))
    command = await harness.deploy_command(new_agent())
    subject = subjects.command("deployer", DEPLOY, command.agent_id)
    await harness.bus.js.publish(subject, b"\xff", headers=command.headers())

    async def complains() -> bool:
        return "commands" in await deployer.complaints()

    await eventually(complains, "the deployer to say that dead letters are refused")
    await harness.bus.js.update_stream(config)
    await dead_letter(harness, DEPLOY)
    await deployer.until_ready()
