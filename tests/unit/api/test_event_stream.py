"""One stream of an agent's events, without a database: when it ends, and what is sent by then."""

from time import monotonic

import pytest
from webhost_api.event_stream import Found, Place, Stream, frame
from webhost_api.watchers import Watcher

FIRST = b"the first"
BEGINNING = Place(0)


def opened(place: Place = BEGINNING, left_s: float = 60) -> Stream:
    watcher = Watcher("usr_1")
    return Stream(
        watcher,
        "agt_1",
        place,
        monotonic() + left_s,
        on_room=lambda: None,
        on_close=lambda stream: None,
    )


async def sent(stream: Stream) -> bytes:
    """All that the client is sent, until the stream ends."""
    return b"".join([part async for part in stream.frames(FIRST)])


@pytest.mark.accept("7.events.ended")
@pytest.mark.timeout(5)
async def test_what_waits_does_not_let_a_stream_go_on_after_its_time() -> None:
    stream = opened()
    received: list[bytes] = []
    async for part in stream.frames(FIRST):
        received.append(part)
        stream.notice(b"always another")
        if len(received) == 3:
            stream.limit(0)
    assert len(received) == 3


@pytest.mark.accept("7.events.ended")
@pytest.mark.timeout(5)
async def test_a_limit_never_moves_a_stream_s_end_back() -> None:
    stream = opened(left_s=0.1)
    stream.limit(monotonic() + 60)
    assert (await sent(stream)).startswith(FIRST)


@pytest.mark.accept("7.events.ended")
@pytest.mark.timeout(5)
@pytest.mark.parametrize("position", [3, 9])
async def test_a_stream_that_missed_the_deletion_ends(position: int) -> None:
    """Retention took the event before it was sent, or the client's position was made up."""
    stream = opened(Place(position))
    stream.take(Found(Place(7, "abcdefgh"), is_deleted=True))
    assert await sent(stream) == FIRST + frame("reset", {"agentId": "agt_1"}, Place(7, "abcdefgh"))


@pytest.mark.accept("7.events.reset")
@pytest.mark.timeout(5)
async def test_a_stream_that_is_open_while_all_is_restored_says_so() -> None:
    stream = opened(Place(5, "firstone"))
    found = Found(Place(6, "newestxx"), is_deleted=False, here="other000")
    found.events.append((Place(6, "newestxx"), "agent.updated.v1", b"never seen"))
    stream.take(found)
    stream.end()
    expected = FIRST + frame("reset", {"agentId": "agt_1"}, Place(6, "newestxx"))
    assert await sent(stream) == expected
