"""Positions: a stream that is not the one they were taken on is noticed."""

from dataclasses import replace

import pytest
from webhost_contracts import subjects
from webhost_kit.bus.reader import Checkpoint, StreamReader
from webhost_kit.errors import StreamDiverged

from tests.support.harness import Harness


async def position_behind_first(harness: Harness, stream: str) -> Checkpoint:
    async for batch in StreamReader(harness.bus, stream, [">"]).batches(None):
        if batch.messages:
            return batch.checkpoint
    raise AssertionError("the reader ended")


@pytest.mark.parametrize("headers", [None, {subjects.MESSAGE_ID_HEADER: "evt_1"}])
async def test_another_message_at_the_same_place_is_noticed(
    harness: Harness, headers: dict[str, str] | None
) -> None:
    await harness.bus.js.publish("usage.usr_1.agt_1", b'{"eventId":"evt_1"}', headers=headers)
    taken = await position_behind_first(harness, subjects.USAGE)
    # What stands there after a restore that lost the first message and took another.
    await harness.bus.js.publish("evt.usr_1.agent.agt_1", b'{"eventId":"evt_2"}')
    there = await position_behind_first(harness, subjects.EVENTS)
    restored = replace(there, message_id=taken.message_id)

    with pytest.raises(StreamDiverged):
        await anext(StreamReader(harness.bus, subjects.EVENTS, [">"]).batches(restored))

    first = await anext(StreamReader(harness.bus, subjects.EVENTS, [">"]).batches(there))
    assert first.checkpoint == there
