"""A stack's NATS cluster, as its operator sees it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from webhost_contracts import subjects
from webhost_kit.bus import streams
from webhost_kit.bus.connection import connect

from tests.support.deadline import until
from tests.support.stack import Stack

WHOLE_S = 60


def nodes(stack: Stack) -> list[str]:
    """The names of its servers."""
    return stack.all_of("nats")


def leader(stack: Stack, stream: str = subjects.USAGE) -> str:
    """The server that leads a stream: what it dies with is the most."""
    [found] = [info for info in _infos(stack) if info.config.name == stream]
    assert found.cluster is not None
    return str(found.cluster.leader)


def until_whole(stack: Stack) -> None:
    """Return when each of three servers has all that the streams hold."""

    def is_whole() -> bool:
        try:
            infos = _infos(stack)
        except (NatsError, TimeoutError, OSError):
            return False
        return all(_is_whole(info) for info in infos)

    until(is_whole, "every server to have all of the streams", seconds=WHOLE_S)


def _is_whole(info: StreamInfo) -> bool:
    peers = (info.cluster and info.cluster.replicas) or []
    return len(peers) == 2 and all(peer.current and not peer.offline for peer in peers)


def _infos(stack: Stack) -> list[StreamInfo]:
    with ThreadPoolExecutor(1) as pool:  # a loop of its own, apart from the tests' own one
        return pool.submit(asyncio.run, _ask(stack.status()["natsUrl"])).result()


async def _ask(nats_url: str) -> list[StreamInfo]:
    bus = await connect(nats_url, "operator")
    try:
        return [await bus.js.stream_info(name) for name in streams.NAMES]
    finally:
        await bus.close()
