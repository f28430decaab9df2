"""A NATS server with the stack's accounts, an operator's connection to it; the stack's database."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from webhost_kit.bus.connection import Bus, connect
from webhost_local import nats_server
from webhost_local.installation import bus_accounts
from webhost_local.installation.bus_accounts import STREAMS
from webhost_local.installation.identities import Identities
from webhost_local.installation.nats_config import Account, NatsUser
from webhost_local.installation.postgres_roles import DATABASE
from webhost_local.installation.services import OPERATOR
from webhost_local.ports import free_port

from tests.support.infra import Postgres
from tests.support.processes import ServerProcess
from tests.support.roles import StackDatabase

BusUrl = Callable[[str], str]


@pytest.fixture(scope="module")
def monitoring() -> str:
    """Where the server says what it remembers."""
    return f"127.0.0.1:{free_port()}"


@dataclass
class StackBus:
    """A server with the stack's accounts: its users' URLs, and what it logs."""

    url: BusUrl
    log: Path


@contextmanager
def running_bus(
    directory: Path, monitoring: str, change: Callable[[Account], Account] = lambda one: one
) -> Iterator[StackBus]:
    port = free_port()
    passwords = Identities().nats_users
    accounts = {name: change(account) for name, account in bus_accounts.accounts(passwords).items()}
    config = directory / "nats.conf"
    nats_server.write_config(config, port=port, store_dir=directory, accounts=accounts)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"http": monitoring}))
    server = ServerProcess(
        nats_server.command(config),
        port=port,
        directory=directory,
        is_ready=lambda: nats_server.is_ready(port),
    )
    server.start()
    try:
        yield StackBus(
            lambda user: f"nats://{user}:{passwords[user]}@127.0.0.1:{port}",
            directory.with_name(directory.name + ".log"),
        )
    finally:
        server.stop()


@pytest.fixture(scope="module")
def stack_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackBus]:
    """The bus as the stack has it."""
    monitoring = f"127.0.0.1:{free_port()}"
    with running_bus(tmp_path_factory.mktemp("nats"), monitoring) as bus:
        yield bus


@pytest.fixture(scope="module")
def bus_url(tmp_path_factory: pytest.TempPathFactory, monitoring: str) -> Iterator[BusUrl]:
    """A bus whose users have no allow-lists: the accounts hold by themselves."""

    def without_lists(account: Account) -> Account:
        users = [NatsUser(user.name, user.password) for user in account.users]
        return replace(account, users=users)

    with running_bus(tmp_path_factory.mktemp("nats"), monitoring, without_lists) as bus:
        yield bus.url


@pytest.fixture
async def operator(bus_url: BusUrl) -> AsyncIterator[Bus]:
    """An operator's connection, to streams with nothing in them."""
    bus = await connect(bus_url(OPERATOR), OPERATOR)
    for stream in STREAMS:
        await bus.js.purge_stream(stream)
    yield bus
    await bus.close()


@pytest.fixture
def database(postgres_server: Postgres) -> Iterator[StackDatabase]:
    """The stack's database with its roles and schemas, not migrated yet."""
    yield StackDatabase(postgres_server)
    postgres_server.drop_database(postgres_server.dsn_of(DATABASE))
