"""Streams on three NATS servers: what the kit relies on holds while any one of them is away."""

import asyncio
import os
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, ConsumerInfo, StreamInfo
from webhost_contracts import subjects, wire
from webhost_contracts.periods import period_key
from webhost_contracts.totals import Totals
from webhost_gateway.routing.totals import TotalsWatch
from webhost_kit.bus import checkpoint as checkpoint_module
from webhost_kit.bus import reader
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.publishing import Message, publish_together
from webhost_kit.bus.reader import StreamReader
from webhost_kit.clock import now_ms
from webhost_kit.errors import StreamDiverged
from webhost_local.installation.nats_config import Account, NatsUser

from tests.support import processes
from tests.support.deadline import eventually
from tests.support.harness import in_background
from tests.support.processes import ServerProcess

# nats-py leaves a connection that ends while it is made to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function StreamWriter.__del__:"
    "pytest.PytestUnraisableExceptionWarning"
)

BATCH = 50
MORE = 15
"""Batches that are stored between one server's end and the next one's."""
STORED_S = 60.0
SUBJECT = "usage.usr_1.agt_1"


@dataclass
class Cluster:
    servers: dict[str, ServerProcess]
    bus: Bus

    async def info(self) -> StreamInfo:
        return await self.bus.js.stream_info(subjects.USAGE)

    async def leader(self) -> str:
        info = await self.info()
        assert info.cluster is not None
        return str(info.cluster.leader)

    async def until_whole(self) -> None:
        async def is_whole() -> bool:
            try:
                cluster = (await self.info()).cluster
            except (NatsError, TimeoutError):
                return False
            peers = (cluster and cluster.replicas) or []
            return len(peers) == 2 and all(peer.current and not peer.offline for peer in peers)

        await eventually(is_whole, "each server to have everything", seconds=STORED_S)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, ServerProcess]]:
    with tempfile.TemporaryDirectory(prefix="webhost-nats-") as directory:
        accounts = {"TEST": Account([NatsUser("test", "for-tests")])}
        running = processes.nats_cluster(Path(directory), accounts)
        try:
            yield running
        finally:
            for server in running.values():
                server.stop()


@pytest.fixture
async def cluster(servers: dict[str, ServerProcess]) -> AsyncIterator[Cluster]:
    urls = ",".join(f"nats://test:for-tests@127.0.0.1:{s.port}" for s in servers.values())
    bus = await connect(urls, "test", replicas=3)
    try:
        cluster = Cluster(servers, bus)
        await cluster.until_whole()
        yield cluster
    finally:
        for name in (subjects.USAGE, subjects.EVENTS, subjects.TOTALS_STREAM):
            await bus.js.delete_stream(name)
        await bus.close()


class Publisher:
    """Stores batches one after the other, each again until it is acknowledged."""

    def __init__(self, bus: Bus) -> None:
        self.stored = 0
        self.tries = 0
        self._bus = bus

    async def run(self) -> None:
        while True:
            batch = [Message(SUBJECT, b"%d.%d" % (self.stored, number)) for number in range(BATCH)]
            self.tries += 1
            try:
                await publish_together(self._bus, batch)
                self.stored += 1
            except (NatsError, TimeoutError, OSError):
                await asyncio.sleep(0.1)

    async def until_more(self) -> None:
        wanted = self.stored + MORE

        async def is_reached() -> bool:
            return self.stored >= wanted

        await eventually(is_reached, f"{MORE} more batches", seconds=STORED_S)


async def read(bus: Bus, into: list[bytes]) -> None:
    async for batch in StreamReader(bus, subjects.USAGE, [">"]).batches(None):
        into += [message.body for message in batch.messages]


@pytest.mark.accept("10.cluster")
@pytest.mark.timeout(300)
async def test_whichever_is_away_what_was_acknowledged_is_there_and_read_once(
    cluster: Cluster,
) -> None:
    """Each leads when it is killed, or stands still until another one does."""
    created = (await cluster.info()).created
    publisher, live = Publisher(cluster.bus), list[bytes]()
    async with in_background(publisher.run(), read(cluster.bus, live)):
        await publisher.until_more()
        for number, _ in enumerate(cluster.servers):
            led = await cluster.leader()
            server = cluster.servers[led]
            pid = server.pid
            assert pid is not None
            if number % 2:
                os.kill(pid, signal.SIGSTOP)
            else:
                server.kill()
            try:
                await publisher.until_more()
                assert await cluster.leader() != led
            finally:
                if number % 2:
                    os.kill(pid, signal.SIGCONT)
                else:
                    server.start()
            await cluster.until_whole()
        await publisher.until_more()
    info = await cluster.info()
    assert info.created == created, "a stream is the same one, whoever leads it"
    assert info.state.messages == info.state.last_seq

    found: list[bytes] = []
    async with in_background(read(cluster.bus, found)):

        async def all_read() -> bool:  # what was under way in the end may be stored only now
            return len(found) == (await cluster.info()).state.messages

        await eventually(all_read, "the whole stream to be read", seconds=STORED_S)
    assert live == found[: len(live)], "the reader skipped or repeated something"
    counted = Counter(found)
    assert counted.keys() >= {
        b"%d.%d" % (batch, number) for batch in range(publisher.stored) for number in range(BATCH)
    }
    # A batch that was tried again may be there twice, and is whole each time.
    by_batch: dict[bytes, set[int]] = {}
    for body, times in counted.items():
        by_batch.setdefault(body.partition(b".")[0], set()).add(times)
    assert all(len(times) == 1 for times in by_batch.values())
    print(f"{publisher.stored} batches in {publisher.tries} tries, {len(found)} messages")


async def test_who_led_may_be_behind_once_and_not_twice(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "SECOND_LOOK_S", 0.1)
    stale = await cluster.info()
    await cluster.bus.js.publish(SUBJECT, b"1")
    current = await cluster.info()
    async with aclosing(StreamReader(cluster.bus, subjects.USAGE, [">"]).batches(None)) as batches:
        async for batch in batches:
            if batch.messages:
                checkpoint: Checkpoint = batch.checkpoint
                break
    follower = StreamReader(cluster.bus, subjects.USAGE, [">"])
    monkeypatch.setattr(cluster.bus.js, "stream_info", AsyncMock(side_effect=[stale, current]))
    assert await follower.verified(checkpoint) == checkpoint
    monkeypatch.setattr(cluster.bus.js, "stream_info", AsyncMock(side_effect=[stale, stale]))
    with pytest.raises(StreamDiverged, match="its tail is lost"):
        await follower.verified(checkpoint)


async def test_nobody_is_led_past_what_a_server_lacks(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fetches what it lost counts nothing, delivers nothing, and seems well."""
    monkeypatch.setattr(reader, "IDLE_ADVANCE_S", 0.2)
    for number in range(3):
        await cluster.bus.js.publish(SUBJECT, b"%d" % number)
    add = cluster.bus.js.add_consumer

    async def where_nothing_is(stream: str, config: ConsumerConfig) -> ConsumerInfo:
        if config.inactive_threshold == reader.INACTIVE_S:
            config = config.evolve(opt_start_seq=4)
        return await add(stream, config)

    monkeypatch.setattr(cluster.bus.js, "add_consumer", where_nothing_is)
    following, looks = StreamReader(cluster.bus, subjects.USAGE, [">"]), 0
    async with asyncio.timeout(30), aclosing(following.batches(None)) as batches:
        async for batch in batches:
            assert not following.usable
            looks += 1
            if batch.messages:
                # What it gets is all that its server has, and not all that there is.
                assert batch.pending > 0
                break
            assert (batch.checkpoint.sequence, batch.pending) == (0, 3)
            if looks == 4:
                await cluster.bus.js.publish(SUBJECT, b"3")


@pytest.fixture
def lagging(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that do not lead, each counts as one that has nothing yet."""
    js = cluster.bus.js
    add = js.add_consumer

    async def as_it_lags(stream: str, config: ConsumerConfig) -> ConsumerInfo:
        info, made = await js.stream_info(stream), await add(stream, config)
        assert info.cluster is not None
        assert made.cluster is not None
        if made.cluster.leader != info.cluster.leader:
            made.num_pending = 0
        return made

    monkeypatch.setattr(js, "add_consumer", as_it_lags)


@pytest.mark.usefixtures("lagging")
async def test_who_leads_says_how_much_is_not_folded(cluster: Cluster) -> None:
    for number in range(3):
        await cluster.bus.js.publish(SUBJECT, b"%d" % number)
    following = StreamReader(cluster.bus, subjects.USAGE, [">"])
    assert {await following.count_behind(None) for _ in range(8)} == {3}


@pytest.mark.usefixtures("lagging")
async def test_totals_are_loaded_once_all_are_there_that_who_leads_has(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that takes a part for all would let a user pass who has used everything."""
    monkeypatch.setattr(reader, "IDLE_ADVANCE_S", 0.2)
    js, period = cluster.bus.js, period_key(now_ms())
    for number in range(3):
        key = subjects.totals_key(f"usr_{number}", period)
        body = wire.encode(Totals(tokens=number, compute_ms=0, generation=1, sequence=1))
        await js.publish(f"$KV.{subjects.TOTALS_BUCKET}.{key}", body)
    add, has_all = js.add_consumer, asyncio.Event()

    async def where_nothing_is(stream: str, config: ConsumerConfig) -> ConsumerInfo:
        if config.inactive_threshold == reader.INACTIVE_S and not has_all.is_set():
            config = config.evolve(opt_start_seq=4)
        return await add(stream, config)

    monkeypatch.setattr(js, "add_consumer", where_nothing_is)
    totals, looks = TotalsWatch(cluster.bus), 0
    advanced = StreamReader._at_leader  # pyright: ignore[reportPrivateUsage]

    async def counted(self: StreamReader, after: int) -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return await advanced(self, after)

    monkeypatch.setattr(StreamReader, "_at_leader", counted)

    async def has_looked() -> bool:
        return looks >= 4

    async with in_background(totals.run()):
        await eventually(has_looked, "several looks")
        assert totals.check() == "not loaded"
        assert totals.requests(period) is None
    has_all.set()

    async def loaded() -> bool:
        return totals.loaded

    async with in_background(totals.run()):
        await eventually(loaded, "the totals to be loaded")
    assert totals.of("usr_2", period) is not None


async def test_a_place_moves_on_in_a_cluster(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "IDLE_ADVANCE_S", 0.2)
    for number in range(5):
        await cluster.bus.js.publish(SUBJECT, b"%d" % number)
    idle = StreamReader(cluster.bus, subjects.USAGE, ["usage.usr_2.>"])
    async with asyncio.timeout(30), aclosing(idle.batches(None)) as batches:
        async for batch in batches:
            if batch.checkpoint.sequence == 5:
                break
    assert await idle.verified(batch.checkpoint) == batch.checkpoint
