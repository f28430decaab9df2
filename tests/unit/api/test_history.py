"""What is shown of facts, and what a stream does with what was read for it."""

from time import monotonic

import msgspec
import pytest
from webhost_api import event_stream, feed
from webhost_api.event_stream import BATCH, MOST_NOTICES, Found, Place, Stream
from webhost_api.feed import Feed
from webhost_api.history import SHOWN, outcome_of, row_of
from webhost_api.watchers import Watcher
from webhost_contracts import ids
from webhost_contracts.catalogue import example_of
from webhost_contracts.events import EVENT_TYPES, Envelope, Event
from webhost_contracts.events.base import UsageFact, by_name
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable

from tests.support.audited import AUDITED

NOT_SHOWN = {"user.registered.v1", "period.sealed.v1"}
"""The facts of EVENTS that are nobody's news."""


@pytest.mark.accept("7.audit.types")
def test_every_type_is_shown_or_left_out_on_purpose() -> None:
    of_events = {kind for kind in EVENT_TYPES if not issubclass(kind, UsageFact)}
    left_out = {kind.type_name() for kind in of_events - SHOWN.keys()}
    assert left_out == NOT_SHOWN


FIELDS = {
    "agent.created.v1": {"name", "envVarKeys", "preferredRuntimeProvider"},
    "agent.updated.v1": {"name", "envVarKeys", "preferredRuntimeProvider"},
    "agent.deployment_requested.v1": {
        *("deploymentVersion", "runtimeProvider", "setAsActive", "commitHash"),
    },
    "agent.deployment_ended.v1": {"outcome", "error"},
    "agent.deployment_activated.v1": {"cause", "previousDeploymentId", "reason"},
    "deployment.started.v1": {"deploymentVersion", "runtimeProvider"},
    "deployment.step_succeeded.v1": {"step", "attempt", "startedAtMs"},
    "deployment.step_failed.v1": {"step", "attempt", "startedAtMs", "error", "retryAtMs"},
    "deployment.succeeded.v1": {"workerName", "invokeUrl"},
    "deployment.failed.v1": {"error"},
    "deployment.teardown_scheduled.v1": {"notBeforeMs"},
    "secret.set.v1": {"keys"},
    "secret.deleted.v1": {"keys"},
    "account.tier_changed.v1": {"tier", "previousTier", "granted"},
    "account.checkout_started.v1": {"tier"},
    "account.webhook_processed.v1": {"eventName", "subscriptionId"},
    "account.subscription_changed.v1": {
        *("subscriptionId", "status", "tier", "renewsAtMs", "endsAtMs"),
    },
    "account.disabled.v1": {"reason"},
    "period.threshold_reached.v1": {"periodKey", "limitType", "percent", "limit", "tier"},
    "key.created.v1": {"name", "scopes", "agentIds", "expiresAtMs", "limits"},
    "key.rotated.v1": {"previousExpiresAtMs"},
    "delegation.refused.v1": {"source", "code", "reason"},
    "report.rejected.v1": {"code", "reason"},
}
"""The test's own list: whoever shows one more field says so here, too. All others show none."""


@pytest.mark.accept("7.audit.types")
@pytest.mark.parametrize("kind", SHOWN)
def test_a_type_is_audited_as_what_it_is_and_shows_what_it_may(kind: type[Event]) -> None:
    name = kind.type_name()
    assert SHOWN[kind].action == AUDITED.get(name)
    assert {*SHOWN[kind].fields} == FIELDS.get(name, set())


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
    of_agent = kind.kind() in ("agent", "deployment", "secret", "teardown", "delegation", "report")
    assert ids.has_prefix(row["agent_id"] or "", ids.AGENT) is of_agent
    if kind.kind() == "deployment" or hasattr(event, "deployment_id"):
        assert ids.has_prefix(row["deployment_id"] or "", ids.DEPLOYMENT)


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (None, None),
        (f"00-{'a' * 32}-{'b' * 16}-01", "a" * 32),
        (f"00-{'0' * 32}-{'b' * 16}-01", None),
        ("of another kind", None),
    ],
)
def test_the_trace_is_named_where_there_is_one(
    traceparent: str | None, trace_id: str | None
) -> None:
    kind = next(iter(SHOWN))
    envelope = msgspec.json.decode(example_of(kind.type_name()), type=Envelope)
    event = envelope.event(by_name(kind))
    assert event is not None
    envelope = msgspec.structs.replace(envelope, traceparent=traceparent)
    assert row_of(envelope, event)["trace_id"] == trace_id


def test_an_outcome_is_read_from_the_type() -> None:
    assert outcome_of("deployment.step_failed.v1") == "failed"
    assert outcome_of("deployment.succeeded.v1") == "succeeded"
    assert outcome_of("deployment.started.v1") is None


def a_feed() -> Feed:
    return Feed(Database("postgresql://nobody@127.0.0.1:1/none"), per_user=2)


def a_stream(of: Feed, position: int = 0) -> Stream:
    return of.open(Watcher("usr_a"), "agt_a", Place(position), monotonic() + 60)


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
    stream = a_stream(a_feed())
    beats: list[bytes] = []
    async for part in stream.frames(b"first"):
        beats.append(part)
        if len(beats) == 3:
            stream.end()
    assert beats == [b"first", b":\n\n", b":\n\n"]


@pytest.mark.accept("7.events.bounds")
def test_the_streams_of_a_process_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_STREAMS", 2)
    process = a_feed()
    first, _ = (process.open(Watcher(user), "agt_a", 0, monotonic() + 60) for user in "ab")
    with pytest.raises(Unavailable):
        process.open(Watcher("c"), "agt_a", 0, monotonic() + 60)
    first.close()
    process.open(Watcher("c"), "agt_a", 0, monotonic() + 60)


@pytest.mark.accept("7.events.bounds")
async def test_a_client_that_takes_no_notices_is_let_go() -> None:
    process = a_feed()
    stream = a_stream(process)
    for _ in range(MOST_NOTICES + 1):
        process.notify("usr_a", "agt_a", b"n")
        process.notify("usr_b", "agt_a", b"another's")
    assert await taken(stream, for_s=60) == b"n" * MOST_NOTICES


def test_a_closed_stream_leaves_nothing_behind() -> None:
    process = a_feed()
    for _ in range(3):
        stream = a_stream(process)
        stream.close()
        stream.close()
    assert process.users == set()


@pytest.mark.accept("7.events.bounds")
async def test_one_stream_too_many_ends_one_of_the_user_who_has_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "MOST_STREAMS", 3)
    it = a_feed()

    def opened(user_id: str) -> Stream:
        return it.open(Watcher(user_id), f"agt_{user_id}", Place(0), monotonic() + 60)

    first, second, others = opened("usr_a"), opened("usr_a"), opened("usr_b")
    newcomers = opened("usr_c")
    assert [one.has_room for one in (others, newcomers)] == [True, True]
    ended, goes_on = (first, second) if second.has_room else (second, first)
    assert goes_on.has_room
    assert [frame async for frame in ended.frames(b"first")] == [b"first"]
    # It is closed once more when its client is gone.
    ended.close()
    for user_id in ("usr_a", "usr_d"):
        with pytest.raises(Unavailable):
            opened(user_id)
    newcomers.close()
    opened("usr_d")
