"""A NATS server with the stack's accounts, and an operator's connection to it."""

import json
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from webhost_kit.bus.connection import Bus, connect
from webhost_local import nats_accounts, nats_server
from webhost_local.identities import Identities
from webhost_local.nats_accounts import OPERATOR, STREAMS
from webhost_local.ports import free_port

from tests.support.processes import ServerProcess

BusUrl = Callable[[str], str]


@pytest.fixture(scope="module")
def monitoring() -> str:
    """Where the server says what it remembers."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def bus_url(tmp_path_factory: pytest.TempPathFactory, monitoring: str) -> Iterator[BusUrl]:
    directory = tmp_path_factory.mktemp("nats")
    port = free_port()
    passwords = Identities().nats_users
    config = directory / "nats.conf"
    nats_server.write_config(
        config, port=port, store_dir=directory, accounts=nats_accounts.accounts(passwords)
    )
    config.write_text(json.dumps(json.loads(config.read_text()) | {"http": monitoring}))
    server = ServerProcess(
        nats_server.command(config),
        port=port,
        directory=directory,
        is_ready=lambda: nats_server.is_ready(port),
    )
    server.start()
    yield lambda user: f"nats://{user}:{passwords[user]}@127.0.0.1:{port}"
    server.stop()


@pytest.fixture
async def operator(bus_url: BusUrl) -> AsyncIterator[Bus]:
    """An operator's connection, to streams with nothing in them."""
    bus = await connect(bus_url(OPERATOR), OPERATOR)
    for stream in STREAMS:
        await bus.js.purge_stream(stream)
    yield bus
    await bus.close()
