"""What is shown of facts, and what a stream does with what was read for it."""

from time import monotonic

import msgspec
import pytest
from webhost_api import event_stream
from webhost_api.event_stream import BATCH, MOST_NOTICES, Found, Place, Stream
from webhost_api.feed import Feed
from webhost_api.history import SHOWN, outcome_of, row_of
from webhost_api.watchers import Watcher
from webhost_contracts import ids
from webhost_contracts.catalogue import example_of
from webhost_contracts.events import EVENT_TYPES, Envelope, Event
from webhost_contracts.events.base import UsageFact, by_name
from webhost_kit.database.engine import Database

NOT_SHOWN = {"user.registered.v1"}
"""The facts of EVENTS that are nobody's news."""


@pytest.mark.accept("7.audit.types")
def test_every_type_is_shown_or_left_out_on_purpose() -> None:
    of_events = {kind for kind in EVENT_TYPES if not issubclass(kind, UsageFact)}
    left_out = {kind.type_name() for kind in of_events - SHOWN.keys()}
    assert left_out == NOT_SHOWN


@pytest.mark.accept("7.audit.types")
@pytest.mark.parametrize("kind", SHOWN)
def test_of_a_fact_the_named_fields_are_shown_and_nothing_else(kind: type[Event]) -> None:
    shown = SHOWN[kind]
    assert {*shown.fields} <= {field.encode_name for field in msgspec.structs.fields(kind)}
    envelope = msgspec.json.decode(example_of(kind.type_name()), type=Envelope)
    event = envelope.event(by_name(kind))
    assert event is not None
    row = row_of(envelope, event)
    assert row["data"].keys() <= {*shown.fields, shown.aggregate}
    assert row["user_id"] == envelope.user_id
    of_agent = kind.kind() in ("agent", "deployment", "secret", "teardown")
    assert ids.has_prefix(row["agent_id"] or "", ids.AGENT) is of_agent
    if kind.kind() == "deployment" or hasattr(event, "deployment_id"):
        assert ids.has_prefix(row["deployment_id"] or "", ids.DEPLOYMENT)


def test_an_outcome_is_read_from_the_type() -> None:
    assert outcome_of("deployment.step_failed.v1") == "failed"
    assert outcome_of("deployment.succeeded.v1") == "succeeded"
    assert outcome_of("deployment.started.v1") is None


def a_feed() -> Feed:
    return Feed(Database("postgresql://nobody@127.0.0.1:1/none"), per_user=2)


def a_stream(feed: Feed, position: int = 0) -> Stream:
    return feed.open(Watcher("usr_a"), "agt_a", Place(position), monotonic() + 60)


def found(*numbers: int, last: int, name: str = "agent.updated.v1") -> Found:
    events = [(Place(number), name, b"<%d>" % number) for number in numbers]
    return Found(Place(last), False, events=events)


async def taken(stream: Stream, *, for_s: float = 0.05) -> bytes:
    """What the client is sent within this time, without the first bytes."""
    stream.limit(monotonic() + for_s)
    sent = [part async for part in stream.frames(b"")]
    return b"".join(sent)


async def test_a_stream_gives_what_is_behind_its_position() -> None:
    stream = a_stream(a_feed(), position=3)
    stream.take(found(4, 5, last=5))
    assert stream.position == 5
    assert await taken(stream) == b"<4><5>"


@pytest.mark.accept("7.events.reset")
@pytest.mark.parametrize(
    ("behind", "given"),
    [
        (found(4, 6, last=7), b"<4>"),  # a hole
        (found(4, last=7), b"<4>"),  # a hole at the end
        (found(last=2), b""),  # a position that is not there yet
    ],
)
async def test_a_hole_is_said_and_skipped(behind: Found, given: bytes) -> None:
    stream = a_stream(a_feed(), position=3)
    stream.take(behind)
    assert stream.position == behind.last.number
    reset = b'id: %d\nevent: reset\ndata: {"agentId":"agt_a"}\n\n' % behind.last.number
    assert await taken(stream) == given + reset


async def test_a_full_batch_is_no_hole_and_is_taken_before_the_next() -> None:
    stream = a_stream(a_feed())
    stream.take(found(*range(1, BATCH + 1), last=1_000))
    assert stream.position == BATCH
    assert not stream.has_room
    assert (await taken(stream)).endswith(b"<%d>" % BATCH)
    assert stream.has_room


@pytest.mark.accept("7.events.live")
async def test_nothing_follows_the_deletion() -> None:
    stream = a_stream(a_feed())
    stream.take(found(1, 2, last=2, name="agent.deleted.v1"))
    assert await taken(stream, for_s=60) == b"<1>"


async def test_a_silent_stream_has_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    assert b":\n\n:\n\n" in await taken(a_stream(a_feed()), for_s=0.1)


@pytest.mark.accept("7.events.bounds")
async def test_a_client_that_takes_no_notices_is_let_go() -> None:
    feed = a_feed()
    stream = a_stream(feed)
    for _ in range(MOST_NOTICES + 1):
        feed.notify("usr_a", "agt_a", b"n")
        feed.notify("usr_b", "agt_a", b"another's")
    assert await taken(stream, for_s=60) == b"n" * MOST_NOTICES


def test_a_closed_stream_leaves_nothing_behind() -> None:
    feed = a_feed()
    for _ in range(3):
        stream = a_stream(feed)
        stream.close()
        stream.close()
    assert feed.users == set()
