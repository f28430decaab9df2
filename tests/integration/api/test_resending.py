"""Commands that the bus lost are sent again until the deployer has started on them."""

from collections.abc import AsyncIterator

import pytest
from webhost_api import resender as resender_module
from webhost_api.commands import Commands
from webhost_api.resender import MOST_DELAY_S, Resender
from webhost_contracts import subjects
from webhost_contracts.commands import (
    DEPLOY,
    TEAR_DOWN,
    TEAR_DOWN_AGENT,
    Deploy,
    TearDown,
    TearDownAgent,
)
from webhost_contracts.entitlements import load_tiers
from webhost_contracts.events import (
    DeploymentSucceeded,
    DeploymentTeardownScheduled,
    TeardownStarted,
)
from webhost_kit.bus import streams
from webhost_kit.database.engine import Database

from tests.integration.api.harness import KEYS, Harness, ok
from tests.integration.api.test_deploying import deployed, succeeded, until_status
from tests.support.deadline import eventually
from tests.support.facts import deployment_started
from tests.support.proxy import Proxy

COMMANDS = Commands(longest_call_ms=60_000)
LEADERS = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE datname = current_database() AND application_name = 'leadership resender'
    AND locktype = 'advisory' AND granted
"""


@pytest.fixture
async def impatient(own_harness: Harness) -> Harness:
    """An api with a short resending interval."""
    await own_harness.service.kill()
    await own_harness.start(RESEND_AFTER_S="0.3", KEEP_DEPLOYMENTS="1")
    return own_harness


@pytest.fixture
async def database(own_harness: Harness) -> AsyncIterator[Database]:
    it = Database(own_harness.dsn)
    yield it
    await it.close()


async def lose_commands(harness: Harness) -> None:
    await harness.bus.js.delete_stream(subjects.COMMANDS)
    await streams.declare(harness.bus.js)


async def until_nothing_is_unstarted(harness: Harness, database: Database) -> None:
    async def none_due() -> bool:
        fresh = Resender(database, harness.bus, COMMANDS, load_tiers(), after_s=0)
        return await fresh.send_due() == 0

    await eventually(none_due, "no command to be sent again")


@pytest.mark.accept("A7")
async def test_a_lost_deploy_ends_well_all_the_same(impatient: Harness, database: Database) -> None:
    user = impatient.user()
    agent = await user.create()
    deployment = await user.deploy(agent["id"])
    first = await impatient.command(DEPLOY, agent["id"], Deploy)
    await lose_commands(impatient)
    again = await impatient.command(DEPLOY, agent["id"], Deploy)
    assert again == first

    await impatient.given(user.id, deployment["id"], deployment_started(agent["id"]))
    await until_nothing_is_unstarted(impatient, database)
    assert (await user.deployment(deployment["id"]))["status"] == "deploying"
    await impatient.given(user.id, deployment["id"], succeeded(agent["id"]), version=2)
    assert (await until_status(user, deployment["id"], "active"))["id"] == first.deployment_id


@pytest.mark.accept("A7")
async def test_a_lost_teardown_is_sent_again_until_it_is_scheduled(
    impatient: Harness, database: Database
) -> None:
    user = impatient.user()
    agent = await user.create()
    old, _ = [await deployed(impatient, user, agent["id"]) for _ in range(2)]
    first = await impatient.command(TEAR_DOWN, agent["id"], TearDown)
    assert first.deployment_id == old["id"]
    await lose_commands(impatient)
    assert await impatient.command(TEAR_DOWN, agent["id"], TearDown) == first

    scheduled = DeploymentTeardownScheduled(agent_id=agent["id"], not_before_ms=first.not_before_ms)
    await impatient.given(user.id, old["id"], scheduled, version=5)
    await until_nothing_is_unstarted(impatient, database)


@pytest.mark.accept("A7")
async def test_a_lost_teardown_of_an_agent_is_sent_again_until_it_is_started(
    impatient: Harness, database: Database
) -> None:
    user = impatient.user()
    agent = await user.create()
    ok(await user.http.delete(f"/v1/agents/{agent['id']}"))
    first = await impatient.command(TEAR_DOWN_AGENT, agent["id"], TearDownAgent)
    await lose_commands(impatient)
    assert await impatient.command(TEAR_DOWN_AGENT, agent["id"], TearDownAgent) == first

    await impatient.given(user.id, agent["id"], TeardownStarted(agent_id=agent["id"]))
    await until_nothing_is_unstarted(impatient, database)


async def test_the_delays_grow_and_are_bounded(
    own_harness: Harness, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(resender_module, "monotonic", lambda: now)
    user = own_harness.user()
    agent = await user.create()
    await user.deploy(agent["id"])
    resender = Resender(database, own_harness.bus, COMMANDS, load_tiers(), after_s=0.1)

    async def sent() -> bool:
        return await resender.send_due() == 1

    await eventually(sent, "the command to be due")
    delay_s = 0.2
    for _ in range(15):
        now += delay_s - 0.01
        assert await resender.send_due() == 0
        now += 0.02
        assert await resender.send_due() == 1
        delay_s = min(2 * delay_s, MOST_DELAY_S)
    assert delay_s == MOST_DELAY_S


async def test_what_the_deployer_never_started_but_ended_is_not_sent_again(
    impatient: Harness, database: Database
) -> None:
    user = impatient.user()
    agent = await user.create()
    deployment = await user.deploy(agent["id"])
    success = DeploymentSucceeded(agent_id=agent["id"], worker_name="w", invoke_url="https://w")
    await impatient.given(user.id, deployment["id"], success, version=2)
    await until_status(user, deployment["id"], "active")
    await until_nothing_is_unstarted(impatient, database)


@pytest.mark.accept("A7")
@pytest.mark.long
async def test_who_cannot_send_lets_another_api_send(own_harness: Harness) -> None:
    harness = own_harness
    await harness.service.kill()
    account, _, host = harness.nats_url.rpartition("@")
    async with Proxy(int(host.rpartition(":")[2])) as proxy:
        url = f"{account}@127.0.0.1:{proxy.port}"
        await harness.start(RESEND_AFTER_S="0.3", NATS_URL=url)
        await harness.until_scalar(LEADERS, 1, "the first api to lead")
        await harness.process(
            "webhost_api",
            JWT_ISSUER=harness.issuer.url,
            RESEND_AFTER_S="0.3",
            **KEYS,
        ).start()
        user = harness.user()
        agent = await user.create()
        await user.deploy(agent["id"])
        first = await harness.command(DEPLOY, agent["id"], Deploy)

        proxy.hold()
        await lose_commands(harness)
        query = subjects.command("deployer", DEPLOY, agent["id"])

        async def sent_again() -> bool:
            info = await harness.bus.js.stream_info(subjects.COMMANDS, subjects_filter=query)
            return bool(info.state.subjects)

        await eventually(sent_again, "the other api to send it", seconds=25)
        assert await harness.command(DEPLOY, agent["id"], Deploy) == first
        await harness.service.kill()
