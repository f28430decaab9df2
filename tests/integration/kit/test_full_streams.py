"""A stream that fills up is announced; one that is full refuses what is new and drops nothing."""

import asyncio

import pytest
from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy
from prometheus_client import REGISTRY
from webhost_contracts import subjects
from webhost_contracts.commands import TEAR_DOWN_AGENT, TearDownAgent
from webhost_kit.bus import publishing, streams
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import Message
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.eventsourcing.relay import BATCH, Relay
from webhost_kit.eventsourcing.store import send
from webhost_local.nats_server import MAX_FILE_STORE

from tests.integration.kit.test_outbox_to_projection import create
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background

SMALL = 64 * 1024
PUBLISHED_ON = {
    subjects.EVENTS: "evt.usr_1.agent.agt_1",
    subjects.USAGE: subjects.usage_packets(0, subjects.GATEWAY),
    subjects.COMMANDS: subjects.command("deployer", "deploy", "agt_1"),
    subjects.DEAD_LETTERS: subjects.dead_letter("cmd.deployer.deploy.agt_1"),
}


async def resize(harness: Harness, stream: str, max_bytes: int) -> None:
    config = (await harness.bus.js.stream_info(stream)).config
    await harness.bus.js.update_stream(config.evolve(max_bytes=max_bytes))


async def fill(harness: Harness, stream: str, up_to: float, size: int = 1_000) -> int:
    """Publish until this part of SMALL is held, or nothing more goes in; return how many did."""
    stored = 0
    while (await harness.bus.js.stream_info(stream)).state.bytes < up_to * SMALL:
        try:
            await publishing.publish(harness.bus, Message(PUBLISHED_ON[stream], b"x" * size))
        except NatsError:
            break
        stored += 1
    return stored


def metric(name: str, stream: str) -> float | None:
    return REGISTRY.get_sample_value(f"webhost_stream_{name}", {"stream": stream})


@pytest.mark.accept("6.C3.streams")
async def test_everything_has_a_size_at_which_it_refuses(harness: Harness) -> None:
    configs = [(await harness.bus.js.stream_info(name)).config for name in streams.NAMES]
    assert all((config.max_bytes or 0) > 0 for config in configs)
    assert {config.discard for config in configs} == {DiscardPolicy.NEW}
    assert sum(config.max_bytes or 0 for config in configs) < MAX_FILE_STORE


@pytest.mark.accept("6.C3.streams")
@pytest.mark.parametrize("stream", PUBLISHED_ON)
async def test_a_full_stream_refuses_and_drops_nothing(harness: Harness, stream: str) -> None:
    await resize(harness, stream, SMALL)
    stored = await fill(harness, stream, up_to=2)
    state = (await harness.bus.js.stream_info(stream)).state
    assert (state.first_seq, state.messages) == (1, stored)
    assert state.bytes <= SMALL
    with pytest.raises(NatsError, match="maximum bytes"):
        await publishing.publish(harness.bus, Message(PUBLISHED_ON[stream], b"x" * 1_000))


@pytest.mark.accept("6.C3.streams")
async def test_the_alarm_comes_at_80_percent_and_ends(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    await resize(harness, subjects.EVENTS, SMALL)
    watch = StreamWatch(harness.bus, [subjects.EVENTS])
    async with in_background(watch.run()):
        await fill(harness, subjects.EVENTS, up_to=0.7)

        async def measured() -> bool:
            return (metric("bytes", subjects.EVENTS) or 0) > 0.6 * SMALL

        await eventually(measured, "the stream to be measured")
        assert (watch.note(), metric("filling", subjects.EVENTS)) == (None, 0)
        assert metric("max_bytes", subjects.EVENTS) == SMALL

        await fill(harness, subjects.EVENTS, up_to=0.85)

        async def announced() -> bool:
            return (watch.note() or "").startswith("EVENTS is 8")

        await eventually(announced, "the note beside readiness")
        assert watch.check() is None  # it still takes what is new
        assert metric("filling", subjects.EVENTS) == 1
        assert capsys.readouterr().out.count("stream fills up") == 1

        await resize(harness, subjects.EVENTS, 10 * SMALL)

        async def over() -> bool:
            return watch.note() is None and metric("filling", subjects.EVENTS) == 0

        await eventually(over, "the end of the alarm")


@pytest.mark.accept("6.C3.streams")
async def test_facts_wait_for_room_and_are_published_then(harness: Harness) -> None:
    await resize(harness, subjects.EVENTS, SMALL)
    filled = await fill(harness, subjects.EVENTS, up_to=2)
    await fill(harness, subjects.EVENTS, up_to=2, size=1)
    relay = Relay(harness.dsn, harness.bus)
    async with in_background(relay.run()):
        await create(harness, "agt_1", "first", "second")

        async def complains() -> bool:
            return relay.check() == "not acknowledged: evt (maximum bytes exceeded)"

        await eventually(complains, "the relay to complain")
        assert await harness.scalar("SELECT count(*) FROM outbox") == 2
        await resize(harness, subjects.EVENTS, 2 * SMALL)
        await harness.until_scalar("SELECT count(*) FROM outbox", 0, "the facts to be published")

        async def well() -> bool:
            return relay.check() is None

        await eventually(well, "the relay to be well")
    assert (await harness.bus.js.stream_info(subjects.EVENTS)).state.first_seq == 1
    assert filled > 0


@pytest.mark.accept("6.C3.streams")
async def test_a_refusal_is_shown_until_something_is_acknowledged(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the relay leads again, and the server of a full disk does not answer."""
    tries, goes_on = 0, asyncio.Event()

    async def publish(bus: Bus, message: Message) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise TimeoutError
        await goes_on.wait()
        await publishing.publish(bus, message)

    monkeypatch.setattr("webhost_kit.eventsourcing.relay.publish", publish)
    await create(harness, "agt_1", "first")
    relay = Relay(harness.dsn, harness.bus)
    async with in_background(relay.run()):

        async def tries_again() -> bool:
            return tries == 2

        await eventually(tries_again, "a second try")
        assert "not acknowledged: evt (no answer; " in (relay.check() or "")
        goes_on.set()

        async def well() -> bool:
            return relay.check() is None

        await eventually(well, "the relay to be well")
        assert await harness.scalar("SELECT count(*) FROM outbox") == 0


@pytest.mark.accept("6.C3.streams")
async def test_a_full_stream_holds_back_no_other(harness: Harness) -> None:
    """Also where more waits for it than the relay looks at in one go."""
    await resize(harness, subjects.COMMANDS, SMALL)
    await fill(harness, subjects.COMMANDS, up_to=2)
    await fill(harness, subjects.COMMANDS, up_to=2, size=1)
    before = (await harness.bus.js.stream_info(subjects.COMMANDS)).state.messages
    async with harness.database.transaction() as connection:
        for number in range(BATCH + 20):
            command = TearDownAgent(
                command_id=f"cmd_{number}",
                user_id="usr_1",
                agent_id=f"agt_{number}",
                causation_id="evt_1",
            )
            subject = subjects.command("deployer", TEAR_DOWN_AGENT, command.agent_id)
            await send(connection, subject, command)
    relay = Relay(harness.dsn, harness.bus)
    async with in_background(relay.run()):
        for name in ("agt_a", "agt_b"):
            await create(harness, name, "first", "second")

            async def arrived(name: str = name) -> bool:
                found = await harness.bus.js.stream_info(
                    subjects.EVENTS, subjects_filter=subjects.event("*", "agent", name)
                )
                return sum((found.state.subjects or {}).values()) == 2

            await eventually(arrived, "the facts to arrive")
        assert relay.check() is not None
        assert await harness.scalar("SELECT count(*) FROM outbox") == BATCH + 20
        await resize(harness, subjects.COMMANDS, 100 * SMALL)
        await harness.until_scalar("SELECT count(*) FROM outbox", 0, "the commands to arrive")

        async def well() -> bool:
            return relay.check() is None

        await eventually(well, "the relay to be well")
    after = (await harness.bus.js.stream_info(subjects.COMMANDS)).state.messages
    assert after == before + BATCH + 20
