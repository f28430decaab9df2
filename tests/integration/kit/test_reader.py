"""Checkpoints: a stream other than the one that they were taken on is noticed."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from nats.aio.msg import Msg
from webhost_contracts import subjects
from webhost_kit.bus import pull, reader
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.filters import in_common
from webhost_kit.bus.reader import StreamReader
from webhost_kit.errors import StreamDiverged

from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background
from tests.support.infra import Nats


async def checkpoint_after_first(harness: Harness, stream: str) -> Checkpoint:
    async for batch in StreamReader(harness.bus, stream, [">"]).batches(None):
        if batch.messages:
            return batch.checkpoint
    raise AssertionError("the reader ended")


@pytest.mark.parametrize("headers", [None, {subjects.MESSAGE_ID_HEADER: "evt_1"}])
async def test_another_message_at_the_same_place_is_noticed(
    harness: Harness, headers: dict[str, str] | None
) -> None:
    await harness.bus.js.publish("usage.usr_1.agt_1", b'{"eventId":"evt_1"}', headers=headers)
    taken = await checkpoint_after_first(harness, subjects.USAGE)
    # What stands there after a restore that lost the first message and took another.
    await harness.bus.js.publish("evt.usr_1.agent.agt_1", b'{"eventId":"evt_2"}')
    there = await checkpoint_after_first(harness, subjects.EVENTS)
    restored = replace(there, message_id=taken.message_id)

    with pytest.raises(StreamDiverged):
        await anext(StreamReader(harness.bus, subjects.EVENTS, [">"]).batches(restored))

    first = await anext(StreamReader(harness.bus, subjects.EVENTS, [">"]).batches(there))
    assert first.checkpoint == there


@pytest.mark.accept("A13")
async def test_after_an_interruption_it_is_usable_once_it_has_caught_up(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    noticed = asyncio.Event()
    take = pull.Pull._on_message

    def taking_note(self: pull.Pull, message: Msg, request: int) -> None:
        take(self, message, request)
        if self._failure is not None:
            noticed.set()

    monkeypatch.setattr(pull.Pull, "_on_message", taking_note)
    reader = StreamReader(harness.bus, subjects.EVENTS, [">"])
    permits = asyncio.Semaphore(1)
    sizes: list[int] = []

    async def read() -> None:
        async for batch in reader.batches(None):
            sizes.append(len(batch.messages))
            await permits.acquire()

    async def state(number: int) -> None:
        for _ in range(number):
            await harness.bus.js.publish("evt.usr_1.agent.agt_1", b"{}")

    async with in_background(read()):

        async def usable() -> bool:
            return reader.usable

        await eventually(usable, "the reader to catch up")
        await state(1)

        async def holds_a_batch() -> bool:
            return sizes == [0, 1]

        await eventually(holds_a_batch, "the first message")
        # Its consumer is lost while it is busy, and more is waiting behind.
        await state(5)
        [consumer] = await harness.bus.js.consumers_info(subjects.EVENTS)
        await harness.bus.js.delete_consumer(subjects.EVENTS, consumer.name)
        async with asyncio.timeout(10):
            await noticed.wait()
        permits.release()

        async def started_anew() -> bool:
            return sizes == [0, 1, 0]

        await eventually(started_anew, "a new consumer")
        assert not reader.usable
        permits.release()
        permits.release()
        await eventually(usable, "the reader to catch up again")
        assert sum(sizes) == 6


async def test_what_was_read_of_another_stream_is_not_usable(harness: Harness) -> None:
    """At once: the reader was never interrupted."""
    await harness.bus.js.publish("evt.usr_1.agent.agt_1", b"{}")
    reader = StreamReader(harness.bus, subjects.EVENTS, [">"])
    known: Checkpoint | None = None

    async def read() -> None:
        nonlocal known
        async for batch in reader.batches(None):
            known = batch.checkpoint

    async def usable() -> bool:
        return reader.usable

    async with in_background(read()):
        await eventually(usable, "the reader to catch up")
    info = await harness.bus.js.stream_info(subjects.EVENTS)
    await harness.bus.js.delete_stream(subjects.EVENTS)
    await harness.bus.js.add_stream(info.config)
    with pytest.raises(StreamDiverged):
        await anext(reader.batches(None, known=known))
    assert not reader.usable


async def test_a_delivery_that_is_lost_is_read_all_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [b"%d" % number for number in range(5)]
    for body in expected:
        await harness.bus.js.publish("evt.usr_1.agent.agt_1", body)
    subscribe = harness.bus.client.subscribe
    lost: list[bytes] = []

    async def losing_one(subject: str, *, cb: Any) -> Any:
        async def on_message(message: Msg) -> None:
            if message.data == expected[2] and not lost:
                lost.append(message.data)
            else:
                await cb(message)

        return await subscribe(subject, cb=on_message)

    monkeypatch.setattr(harness.bus.client, "subscribe", losing_one)
    read: list[bytes] = []
    async with asyncio.timeout(20):
        async for batch in StreamReader(harness.bus, subjects.EVENTS, [">"]).batches(None):
            read += [message.body for message in batch.messages]
            if expected[-1] in read:
                break
    assert (lost, read) == ([expected[2]], expected)


@pytest.mark.accept("8.neighbours")
@pytest.mark.accept("A9")
async def test_large_messages_come_in_small_batches(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a batch nor what is fetched ahead of it grows with what the messages hold."""
    size, number = 100_000, 60
    monkeypatch.setattr(pull, "BATCH_BYTES", 3 * size)
    monkeypatch.setattr(pull, "REQUEST_BYTES", 10 * size)
    requests = counted_requests(monkeypatch)
    bodies = [b"%d " % n + b"x" * (size - 10) for n in range(number)]
    for body in bodies:
        await harness.bus.js.publish("evt.usr_1.agent.agt_1", body)
    found: list[bytes] = []
    started = 0
    async with (
        asyncio.timeout(20),
        aclosing(StreamReader(harness.bus, subjects.EVENTS, [">"]).batches(None)) as batches,
    ):
        async for batch in batches:
            started += not batch.messages
            assert len(batch.messages) <= 3
            found += [message.body for message in batch.messages]
            if len(found) == number:
                break
    assert found == bodies
    # One consumer served all of it: that a request is full is no failure.
    assert started == 1
    assert len(requests) >= number * size // pull.REQUEST_BYTES


def counted_requests(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """What grows by one with each request for messages."""
    requests: list[None] = []
    ask = pull.Pull._ask

    async def counted(pull: pull.Pull) -> None:
        requests.append(None)
        await ask(pull)

    monkeypatch.setattr(pull.Pull, "_ask", counted)
    return requests


@pytest.mark.accept("8.neighbours")
async def test_what_has_arrived_is_handed_over_in_parts(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message larger than a batch may be comes alone."""
    monkeypatch.setattr(pull, "BATCH_BYTES", 10)
    taking = pull.Pull(harness.bus, subjects.EVENTS, "none", 500)
    taking._left = 1
    sizes = [4, 4, 4, 11, 10, 1, 9]
    taking._arrived.extend(Msg(harness.bus.client, "evt", "", b"x" * size) for size in sizes)
    batches = [[len(m.data) for m in await taking.next(500)] for _ in range(5)]
    assert batches == [[4, 4], [4], [11], [10], [1, 9]]


async def test_a_request_that_had_all_it_asked_for_is_followed_by_the_next(
    harness: Harness,
) -> None:
    """The server says so of each: that is no failure, and ends no later request."""
    for number in range(53):
        await harness.bus.js.publish("evt.usr_1.agent.agt_1", b"%d" % number)
    found: list[bytes] = []
    started = 0
    few = StreamReader(harness.bus, subjects.EVENTS, [">"], batch_size=5)
    async with asyncio.timeout(20), aclosing(few.batches(None)) as batches:
        async for batch in batches:
            started += not batch.messages
            found += [message.body for message in batch.messages]
            if len(found) == 53:
                break
    assert found == [b"%d" % number for number in range(53)]
    assert started == 1


async def test_of_several_subjects_only_those_are_read_and_the_place_moves_on_all_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "IDLE_ADVANCE_S", 0.2)
    wanted = [subjects.events_of_kind("agent"), subjects.events_of_kind("key")]
    stream = StreamReader(harness.bus, subjects.EVENTS, wanted)
    for name in ("agent.agt_1", "period.per_1", "key.key_1", "agentic.agt_2", "period.per_2"):
        await harness.bus.js.publish(f"evt.usr_1.{name}", name.encode())
    async with asyncio.timeout(20), aclosing(stream.batches(None)) as batches:
        assert (await anext(batches)).pending == 5
        batch = await anext(batches)
        assert [message.body for message in batch.messages] == [b"agent.agt_1", b"key.key_1"]
        assert (batch.checkpoint.sequence, batch.pending) == (5, 0)
        # What comes for others only makes no batch of its own, but the place moves on in time.
        await harness.bus.js.publish("evt.usr_1.period.per_3", b"{}")
        batch = await anext(batches)
        assert (batch.messages, batch.checkpoint.sequence) in (((), 6), ([], 6))
    async with asyncio.timeout(20), aclosing(stream.batches(batch.checkpoint)) as batches:
        assert (await anext(batches)).pending == 0


async def test_who_was_behind_for_others_messages_catches_up(harness: Harness) -> None:
    stream = StreamReader(harness.bus, subjects.EVENTS, ["evt.*.agent.*", "evt.*.key.*"])
    for number in range(3):
        await harness.bus.js.publish(f"evt.usr_1.period.per_{number}", b"{}")
    found: list[bytes] = []

    async def read() -> None:
        async for batch in stream.batches(None):
            found.extend(message.body for message in batch.messages)

    async def is_current() -> bool:
        return stream.usable and stream.check() is None

    async with in_background(read()):
        await eventually(is_current, "the reader to have caught up")
    assert found == []


async def test_many_subjects_are_read_as_fast_with_several_filters(harness: Harness) -> None:
    """Beyond some thousand subjects the server took a millisecond and more for each message."""
    number = 6_000
    one = [f"evt.usr_{n % 10}.agent.agt_{n}" for n in range(number)]
    for start in range(0, number, 500):
        await asyncio.gather(
            *(harness.bus.js.publish(subject, b"{}") for subject in one[start : start + 500])
        )
    rates: dict[int, float] = {}
    for filters in (["evt.*.agent.*"], ["evt.*.agent.*", "evt.*.key.*"]):
        stream = StreamReader(harness.bus, subjects.EVENTS, filters)
        began, read = asyncio.get_running_loop().time(), 0
        async with aclosing(stream.batches(None)) as batches:
            async for batch in batches:
                read += len(batch.messages)
                if read == number:
                    break
        rates[len(filters)] = number / (asyncio.get_running_loop().time() - began)
    assert rates[2] > rates[1] / 4, rates


@pytest.mark.parametrize(
    ("filters", "common"),
    [
        (["evt.*.agent.*"], "evt.*.agent.*"),
        (["evt.*.agent.*", "evt.*.key.*"], "evt.*.>"),
        (["a.b", "a.b.c"], "a.>"),
        (["a.b.>", "a.b.>.c"], "a.b.>"),
        (["a", "b"], ">"),
    ],
)
def test_what_filters_have_in_common_selects_all_that_they_do(
    filters: list[str], common: str
) -> None:
    assert in_common(filters) == common


async def test_a_reader_listens_on_one_inbox_and_then_on_none(harness: Harness) -> None:
    for number in range(53):
        await harness.bus.js.publish("evt.usr_1.agent.agt_1", b"%d" % number)
    before, most, found = listening(harness), 0, 0
    few = StreamReader(harness.bus, subjects.EVENTS, [">"], batch_size=5)
    async with asyncio.timeout(20), aclosing(few.batches(None)) as batches:
        async for batch in batches:
            found += len(batch.messages)
            most = max(most, listening(harness) - before)
            if found == 53:
                break
    assert (most, listening(harness)) == (1, before)


async def test_an_outage_leaves_nobody_listening(harness: Harness, nats_server: Nats) -> None:
    await harness.bus.js.publish("evt.usr_1.agent.agt_1", b"{}")
    before = listening(harness)
    stream = StreamReader(harness.bus, subjects.EVENTS, [">"])

    async def read() -> None:
        async for _ in stream.batches(None):
            pass

    async def usable() -> bool:
        return stream.usable

    async def away() -> bool:
        return (stream.check() or "").startswith("away")

    async with in_background(read()):
        await eventually(usable, "the reader to catch up")
        nats_server.kill()
        try:
            await eventually(away, "the reader to give its consumer up", seconds=15)
        finally:
            nats_server.start()
        await eventually(usable, "the reader to catch up again", seconds=20)
        assert listening(harness) == before + 1


async def test_fewer_than_two_requests_messages_are_buffered(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "BATCH_BYTES", 10)
    take, most, found = pull.Pull._on_message, 0, 0

    def watching(self: pull.Pull, message: Msg, request: int) -> None:
        nonlocal most
        take(self, message, request)
        most = max(most, len(self._arrived))

    monkeypatch.setattr(pull.Pull, "_on_message", watching)
    for _ in range(40):
        await harness.bus.js.publish("evt.usr_1.agent.agt_1", b"x" * 8)
    few = StreamReader(harness.bus, subjects.EVENTS, [">"], batch_size=5)
    async with asyncio.timeout(20), aclosing(few.batches(None)) as batches:
        async for batch in batches:
            found += len(batch.messages)
            await asyncio.sleep(0.01)  # a fold that is slower than the server
            if found == 40:
                break
    assert most < 10


def listening(harness: Harness) -> int:
    """How many subscriptions its connection has."""
    return len(harness.bus.client._subs)
