"""A stream or bucket that is deleted under a running service is made again, as another one."""

import asyncio
from contextlib import suppress

import pytest
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError
from webhost_contracts import subjects
from webhost_kit.bus import stream_watch, streams
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import connect
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.errors import StreamMissing, Unavailable
from webhost_kit.eventsourcing import republish
from webhost_kit.eventsourcing.own_facts import OwnFacts
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.eventsourcing.store import require_verified

from tests.integration.kit.test_outbox_to_projection import TYPES
from tests.integration.kit.test_restore import name, own_facts, recover, relayed, verified
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background
from tests.support.proxy import Proxy

LIMIT_S = 8
"""No operator waits longer for an answer about a stream that is missing."""


async def config_of(harness: Harness, stream: str) -> StreamConfig | None:
    try:
        return (await harness.bus.js.stream_info(stream)).config
    except NotFoundError:
        return None


async def test_all_that_is_declared_is_made_again(harness: Harness) -> None:
    declared = {stream: await config_of(harness, stream) for stream in streams.NAMES}
    first, second = StreamWatch(harness.bus, streams.NAMES), StreamWatch(harness.bus, ())
    async with in_background(first.run(), second.run()):

        async def seen() -> bool:
            return all(first.created_at(stream) for stream in streams.NAMES)

        await eventually(seen, "the streams to be seen")
        before = {stream: first.created_at(stream) for stream in streams.NAMES}
        for stream in streams.NAMES:
            await harness.bus.js.delete_stream(stream)

        async def all_missing() -> bool:
            return all(f"{stream} is missing" in (first.check() or "") for stream in streams.NAMES)

        await eventually(all_missing, "readiness to say what is missing")
        assert second.check() is None  # it needs none of them

        async def others_there() -> bool:
            return first.check() is None and all(
                first.created_at(stream) != before[stream] for stream in streams.NAMES
            )

        await eventually(others_there, "other streams to be there")
    assert {stream: await config_of(harness, stream) for stream in streams.NAMES} == declared


async def test_readiness_says_why_a_stream_cannot_be_made(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_watch, "MISSING_S", 0.0)
    await harness.bus.js.delete_stream(subjects.EVENTS)
    await harness.bus.js.add_stream(name="IN_THE_WAY", subjects=[subjects.ALL_EVENTS])
    watch = StreamWatch(harness.bus, [subjects.EVENTS])
    async with in_background(watch.run()):

        async def says_why() -> bool:
            return "EVENTS is missing: " in (said := watch.check() or "") and "overlap" in said

        await eventually(says_why, "readiness to say why")
        await harness.bus.js.delete_stream("IN_THE_WAY")

        async def well() -> bool:
            return watch.check() is None and watch.created_at(subjects.EVENTS) is not None

        await eventually(well, "the stream to be made")


@pytest.mark.accept("A1")
async def test_own_facts_wait_while_their_stream_is_missing(harness: Harness) -> None:
    part = own_facts(harness, harness.database)
    async with in_background(part.run(), harness.database.run()):
        await verified(part)
        await harness.bus.js.delete_stream(subjects.EVENTS)

        async def refuses() -> bool:
            with suppress(Unavailable):
                async with harness.database.transaction() as connection:
                    require_verified(connection)
                    return False
            return part.check() is not None

        await eventually(refuses, "appends to be refused")


@pytest.mark.accept("A1")
async def test_nothing_is_relayed_to_a_stream_that_was_made_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = own_facts(harness, harness.database)
    looked, verify = asyncio.Event(), part.projector.verify

    async def noted(checkpoint: Checkpoint | None) -> None:
        await verify(checkpoint)
        looked.set()

    monkeypatch.setattr(part.projector, "verify", noted)
    relay = Relay(harness.dsn, harness.bus, part.check)
    watch = StreamWatch(harness.bus, [subjects.EVENTS])
    async with in_background(part.run(), watch.run(), harness.database.run()):
        await verified(part)
        async with in_background(relay.run()):
            await name(harness.database, "agt_1", 0, "first")
            await relayed(harness.database)
        await name(harness.database, "agt_1", 1, "second")
        looked.clear()
        await asyncio.wait_for(looked.wait(), 10)
        # Just behind a look: it takes the longest until this is noticed.
        await harness.bus.js.delete_stream(subjects.EVENTS)
        async with in_background(relay.run()):

            async def halted() -> bool:
                return "halted" in (part.check() or "")

            await eventually(halted, "own facts to halt", seconds=20)
            # The relay is held now. Whatever it did before, it did before this.
            assert (await harness.bus.js.stream_info(subjects.EVENTS)).state.messages == 0
            async for progress in part.republish(dry_run=False):
                published = progress.published
            assert published == 2
            await part.projector.reset()
            await verified(part)
            await relayed(harness.database)


@pytest.mark.accept("A1")
async def test_republish_refuses_where_the_stream_is_missing(harness: Harness) -> None:
    await harness.bus.js.delete_stream(subjects.EVENTS)
    part = own_facts(harness, harness.database)
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(StreamMissing, match="the stream EVENTS is missing"):
            await anext(part.republish(dry_run=True))


@pytest.mark.accept("A1")
async def test_republish_ends_where_the_stream_falls_silent(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(republish, "SILENCE_S", 1.0)
    await harness.bus.js.publish("evt.usr_1.agent.agt_1", b"{}")
    account, _, host = harness.nats_url.rpartition("@")
    async with Proxy(int(host.rpartition(":")[2])) as proxy:
        behind = await connect(f"{account}@127.0.0.1:{proxy.port}", "test")
        part = OwnFacts("test", harness.database, behind, ["evt.*.agent.*"], TYPES, recover)
        async with asyncio.timeout(LIMIT_S):
            progress = part.republish(dry_run=True)
            await anext(progress)
            proxy.hold()
            with pytest.raises(Unavailable, match="silent"):
                async for _ in progress:
                    pass
        proxy.release()
        await behind.close()
