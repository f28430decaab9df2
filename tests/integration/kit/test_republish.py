"""Own facts that the stream lacks are put back in the order of their aggregate, or not at all."""

from contextlib import suppress
from typing import cast

import pytest
from nats.errors import NoRespondersError
from webhost_contracts import maintenance, subjects, wire
from webhost_contracts.events import Envelope
from webhost_contracts.maintenance import (
    Nothing,
    ProjectionRequest,
    ProjectionsReply,
    ReplayReply,
    RepublishProgress,
)
from webhost_kit.errors import StreamDiverged
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.eventsourcing.republish import republish
from webhost_kit.process.maintenance import Maintenance

from tests.integration.kit.test_outbox_to_projection import TYPES, create, projector
from tests.integration.kit.test_restore import name, own_facts, relayed, verified
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background


async def republished(harness: Harness, *, dry_run: bool = False) -> RepublishProgress:
    """Republish all of it; return the last progress."""
    steps = republish(harness.database, harness.bus, ["evt.>"], TYPES, dry_run=dry_run)
    return [progress async for progress in steps][-1]


async def on_stream(harness: Harness) -> list[tuple[str, int]]:
    """Which version of which aggregate the stream holds, in its order."""
    state = (await harness.bus.js.stream_info(subjects.EVENTS)).state
    held = range(state.first_seq, state.last_seq + 1) if state.messages else ()
    found = [await harness.bus.js.get_msg(subjects.EVENTS, sequence) for sequence in held]
    envelopes = [wire.decode(message.data or b"", Envelope) for message in found]
    return [(envelope.aggregate_id, envelope.version) for envelope in envelopes]


@pytest.mark.accept("A1")
async def test_what_is_missing_is_put_back_in_order(harness: Harness) -> None:
    await create(harness, "agt_1", "one", "two", "three")
    await create(harness, "agt_2", "one", "two")
    last = await republished(harness)
    assert (last.held, last.missing, last.published, last.done) == (0, 5, 5, True)
    expected = [("agt_1", 1), ("agt_1", 2), ("agt_1", 3), ("agt_2", 1), ("agt_2", 2)]
    assert await on_stream(harness) == expected
    assert (await republished(harness)).published == 0
    assert await on_stream(harness) == expected


@pytest.mark.accept("A1")
async def test_nothing_is_put_behind_a_later_version(harness: Harness) -> None:
    await create(harness, "agt_1", "one", "two")
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        await harness.until_scalar("SELECT count(*) FROM outbox", 0, "an empty outbox")
    await create(harness, "agt_2", "of the relay's next turn")
    await harness.bus.js.purge_stream(subjects.EVENTS, seq=2)
    assert await on_stream(harness) == [("agt_1", 2)]
    assert (await republished(harness, dry_run=True)).missing == 2
    with pytest.raises(StreamDiverged, match="version 2 of agt_1"):
        await republished(harness)
    assert await on_stream(harness) == [("agt_1", 2)]


async def lose_tail(harness: Harness, kept: int) -> None:
    """Make EVENTS anew with only so many of its messages, as a restore may."""
    info = await harness.bus.js.stream_info(subjects.EVENTS)
    found = [await harness.bus.js.get_msg(subjects.EVENTS, n) for n in range(1, kept + 1)]
    await harness.bus.js.delete_stream(subjects.EVENTS)
    await harness.bus.js.add_stream(info.config)
    for message in found:
        headers = cast(dict[str, str], message.headers)
        await harness.bus.js.publish(message.subject or "", message.data or b"", headers=headers)


@pytest.mark.accept("A1")
async def test_own_facts_are_not_read_again_while_the_stream_lacks_some(harness: Harness) -> None:
    """Whoever reads them next would take what is left for all that there is."""
    part = own_facts(harness, harness.database)
    operations = Maintenance("test", harness.bus, harness.database, [], part)
    subject = maintenance.subject("test", maintenance.REPLAY)

    async def replay() -> str | None:
        request = wire.encode(ProjectionRequest(projection="test.own-facts"))
        answer = await harness.bus.client.request(subject, request, timeout=10)
        return wire.decode(answer.data, ReplayReply).refused

    async with in_background(part.run(), operations.run(), harness.database.run()):
        await verified(part)
        async with in_background(Relay(harness.dsn, harness.bus, part.check).run()):
            for agent in ("agt_1", "agt_2", "agt_3"):
                await name(harness.database, agent, 0, "published")
            await relayed(harness.database)
        await name(harness.database, "agt_3", 1, "waits in the outbox")
        followed = "SELECT sequence FROM checkpoints WHERE name = 'test.own-facts'"
        await harness.until_scalar(followed, 3, "the facts to be followed")
        await lose_tail(harness, kept=1)

        async def halted() -> bool:
            return "halted" in (part.check() or "")

        await eventually(halted, "own facts to halt", seconds=20)
        assert "lacks 2 of this service's facts" in (await replay() or "")
        assert await halted()
        await republished(harness)
        assert await replay() is None
        await verified(part)


@pytest.mark.accept("A1")
async def test_a_halt_is_seen_by_the_replica_that_waits(harness: Harness) -> None:
    await create(harness, "agt_1", "first")
    first, waiting = projector(harness), projector(harness)
    operations = Maintenance("test", harness.bus, harness.database, [waiting])
    subject = maintenance.subject("test", maintenance.PROJECTIONS)

    async def shown() -> str | None:
        answer = await harness.bus.client.request(subject, wire.encode(Nothing()), timeout=10)
        return wire.decode(answer.data, ProjectionsReply).projections[0].problem

    async with in_background(Relay(harness.dsn, harness.bus).run(), first.run()):
        await harness.until_scalar("SELECT count(*) FROM names", 1, "the fold")
        async with in_background(waiting.run(), operations.run()):

            async def waits() -> bool:
                with suppress(NoRespondersError):
                    return await shown() is None
                return False

            await eventually(waits, "the replica to wait")
            await lose_tail(harness, kept=0)
            assert "halted" in (await shown() or "")
            assert waiting.check() is None
