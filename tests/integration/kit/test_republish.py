"""Own facts that the stream lacks are put back in the order of their aggregate, or not at all."""

import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.events import Envelope
from webhost_contracts.maintenance import RepublishProgress
from webhost_kit.errors import StreamDiverged
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.eventsourcing.republish import republish

from tests.integration.kit.test_outbox_to_projection import TYPES, create
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
