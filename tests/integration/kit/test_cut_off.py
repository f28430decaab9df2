"""A NATS server that only its clients still reach: it is noticed, and left for another one.

Routes are held, and nobody is told: to a client its server seems well.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import pytest
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, ConsumerInfo
from webhost_contracts import subjects
from webhost_contracts.wire import Wire
from webhost_kit.bus import rpc
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.reader import INACTIVE_S, StreamReader
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.errors import Unavailable
from webhost_local.installation.nats_config import Account, NatsUser

from tests.support.deadline import eventually
from tests.support.harness import in_background
from tests.support.routes import NAMES, Routed, routed_cluster

# nats-py leaves a connection that ends while it is made to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function StreamWriter.__del__:"
    "pytest.PytestUnraisableExceptionWarning"
)

USER = "test:for-tests"
NOTICED_S = 15.0
LEFT_S = 20.0
SUBJECT = "evt.usr_1.agent.agt_1"


@pytest.fixture
async def routed(tmp_path: Path) -> AsyncIterator[Routed]:
    accounts = {"TEST": Account([NatsUser(*USER.split(":"))])}
    async with routed_cluster(tmp_path, accounts) as cluster:
        yield cluster


@pytest.fixture
def first_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects begins with the first address that it was given."""

    def sample(population: Sequence[str], k: int) -> list[str]:
        return list(population)[:k]

    monkeypatch.setattr(random, "sample", sample)


async def until_whole(bus: Bus) -> str:
    """Return who leads EVENTS, once each server has all of it."""
    found: list[str] = []

    async def is_whole() -> bool:
        try:
            cluster = (await bus.js.stream_info(subjects.EVENTS)).cluster
        except (NatsError, TimeoutError):
            return False
        peers = (cluster and cluster.replicas) or []
        if len(peers) < 2 or not all(peer.current for peer in peers) or cluster is None:
            return False
        found.append(str(cluster.leader))
        return True

    await eventually(is_whole, "each server to have everything", seconds=60)
    return found[-1]


def at(bus: Bus) -> int | None:
    url = bus.client.connected_url
    return None if url is None else url.port


async def after(began: float, what: str, holds: Callable[[], bool], seconds: float) -> float:
    """Return how long after `began` this holds."""

    async def there() -> bool:
        return holds()

    await eventually(there, what, seconds=seconds)
    return monotonic() - began


class Question(Wire, frozen=True):
    text: str


async def answer(question: Question) -> Question:
    return question


async def until_answered(bus: Bus, seconds: float) -> None:
    async def answered() -> bool:
        try:
            await rpc.call(bus, "rpc.test.echo", Question(text="?"), Question)
        except Unavailable:
            return False
        return True

    await eventually(answered, "an answer", seconds=seconds)


@pytest.mark.accept("10.cluster")
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("first_is_first")
@pytest.mark.parametrize("leads", [True, False], ids=["who leads", "who follows"])
async def test_a_server_that_is_cut_off_from_the_others_is_left(
    routed: Routed, monkeypatch: pytest.MonkeyPatch, *, leads: bool
) -> None:
    everywhere = await connect(routed.urls(USER), "test", replicas=3)
    leader = await until_whole(everywhere)
    victim = leader if leads else next(name for name in NAMES if name != leader)
    well = [name for name in NAMES if name != victim]
    urls = routed.urls(USER, victim, *well)
    bus = await connect(urls, "test", replicas=3)
    others = await connect(routed.urls(USER, *well), "test", replicas=3)
    requests = RequestServer(urls, "test")
    requests.serve("rpc.test.echo", answer)
    await requests.start()
    assert at(bus) == routed.servers[victim].port

    with monkeypatch.context() as patched:
        patched.setattr(bus.js, "add_consumer", placed_at(bus, victim))
        await seen_and_left(routed, victim, bus, others, requests)
    for each in (everywhere, bus, others):
        await each.close()
    await requests.close()


def placed_at(bus: Bus, server: str) -> Callable[[str, ConsumerConfig], Awaitable[ConsumerInfo]]:
    """Return what makes a reader's first consumer at this server, which delivers heartbeats to it
    whatever happens elsewhere.
    """
    add, is_placed = bus.js.add_consumer, False

    async def add_there(stream: str, config: ConsumerConfig) -> ConsumerInfo:
        nonlocal is_placed
        made = await add(stream, config)
        if is_placed or config.inactive_threshold != INACTIVE_S:
            return made
        while made.cluster is None or made.cluster.leader != server:
            made = await add(stream, config)
        is_placed = True
        return made

    return add_there


async def seen_and_left(
    routed: Routed, victim: str, bus: Bus, others: Bus, requests: RequestServer
) -> None:
    watch = StreamWatch(bus, [subjects.EVENTS, subjects.USAGE])
    reader = StreamReader(bus, subjects.EVENTS, ["evt.>"])
    read: list[bytes] = []

    async def follow() -> None:
        async with aclosing(reader.batches(None)) as batches:
            async for batch in batches:
                read.extend(message.body for message in batch.messages)

    async with in_background(watch.run(), follow(), requests.run()):
        await others.js.publish(SUBJECT, b"before")
        await after(0, "the reader to be current", lambda: reader.usable and len(read) == 1, 20)
        await until_answered(others, 10)
        assert (watch.check(), bus.check(), requests.check()) == (None, None, None)
        assert reader.silent_s < 4

        routed.cut_off(victim)
        began = monotonic()
        noticed = await after(began, "it to be noticed", lambda: not reader.usable, NOTICED_S)
        assert "who leads EVENTS" in (reader.interruption() or ""), "somebody else may do better"
        assert reader.silent_s > 9
        left = await after(
            began, "it to be left", lambda: at(bus) not in (None, at_port(routed, victim)), LEFT_S
        )
        while True:
            try:
                await others.js.publish(SUBJECT, b"behind it", timeout=2)
                break
            except (NatsError, TimeoutError):
                assert monotonic() - began < 60
        heard = await after(
            began, "what came meanwhile to be read", lambda: read[-1] == b"behind it", 30
        )
        await after(began, "all to be well", lambda: reader.usable and watch.check() is None, 30)
        await until_answered(others, 30)
        answered = monotonic() - began
        print(f"noticed {noticed:.1f} s, left {left:.1f}, read {heard:.1f}, replied {answered:.1f}")
        assert bus.check() is None

        routed.join(victim)


def at_port(routed: Routed, name: str) -> int:
    return routed.servers[name].port
