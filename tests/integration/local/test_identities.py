"""Who may do what on the stack's bus and in its database."""

from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import psycopg
import pytest
from nats.aio.msg import Msg
from webhost_contracts import maintenance, subjects
from webhost_kit.bus.connection import inbox_prefix
from webhost_local import nats_permissions, nats_server
from webhost_local.data_dir import DataDir
from webhost_local.identities import Identities, load_or_make, role, schema
from webhost_local.nats_permissions import OPERATOR, SERVICES
from webhost_local.ports import free_port
from webhost_local.provision import provision

from tests.support.deadline import eventually
from tests.support.infra import Postgres
from tests.support.processes import ServerProcess

FACTS = {
    "evt.usr_1.user.usr_1": {"api"},
    "evt.usr_1.agent.agt_1": {"api"},
    "evt.usr_1.deployment.dep_1": {"deployer"},
    "evt.usr_1.account.usr_1": {"billing"},
    "evt.usr_1.unheard-of.usr_1": set(),
    "usage.7.gateway": {"gateway"},
    "usage.7.telemetry-ingest": {"telemetry-ingest"},
    "cmd.deployer.deploy.dep_1": {"api"},
    "$KV.TOTALS.usr_1.2026-11": {"billing"},
}


@pytest.fixture(scope="module")
def identities() -> Identities:
    return Identities()


@pytest.fixture(scope="module")
def bus_url(
    identities: Identities, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    directory = tmp_path_factory.mktemp("nats")
    port = free_port()
    users = nats_permissions.users(identities.nats_users)
    config = directory / "nats.conf"
    nats_server.write_config(config, port=port, store_dir=directory, users=users)
    server = ServerProcess(
        nats_server.command(config),
        port=port,
        directory=directory,
        is_ready=lambda: nats_server.is_ready(port),
    )
    server.start()
    yield lambda user: f"nats://{user}:{identities.nats_users[user]}@127.0.0.1:{port}"
    server.stop()


@pytest.mark.parametrize("service", SERVICES)
async def test_only_owners_state_facts_and_give_commands(
    service: str, bus_url: Callable[[str], str]
) -> None:
    heard: set[str] = set()
    denied: set[str] = set()
    own = {subject for subject, owners in FACTS.items() if service in owners}

    async def hear(message: Msg) -> None:
        heard.add(message.subject)

    async def on_error(error: Exception) -> None:
        denied.add(str(error))

    async with (
        await nats.connect(bus_url(OPERATOR)) as operator,
        await nats.connect(bus_url(service), error_cb=on_error) as client,
    ):
        await operator.subscribe(">", cb=hear)
        await operator.flush()

        async def all_is_said() -> bool:
            # Again and again: the server was seen to miss a subscription of a moment ago.
            for subject in FACTS:
                await client.publish(subject, b"")
            await client.flush()
            return heard & set(FACTS) >= own and len(denied) == len(FACTS) - len(own)

        await eventually(all_is_said, "its own facts, and a refusal for every foreign one")
        assert heard & set(FACTS) == own


# What reaches a stream's content or life: who may ask it of JetStream.
REQUESTS = {
    "STREAM.MSG.GET.EVENTS": set(SERVICES),
    "STREAM.MSG.GET.USAGE": {"billing"},
    "STREAM.MSG.GET.COMMANDS": {"deployer"},
    "STREAM.MSG.GET.DEADLETTERS": set(),
    "CONSUMER.CREATE.EVENTS.c.evt.>": set(SERVICES),
    "CONSUMER.CREATE.USAGE.c.usage.>": {"billing"},
    "CONSUMER.CREATE.COMMANDS.c": {"deployer"},
    "CONSUMER.CREATE.KV_TOTALS.c": {"gateway"},
    "CONSUMER.CREATE.OBJ_ARTIFACTS.c": {"api", "deployer"},
    "CONSUMER.DURABLE.CREATE.COMMANDS.deployer-deploy": {"deployer"},
    "CONSUMER.DELETE.COMMANDS.deployer-deploy": {"deployer"},
    "STREAM.CREATE.MIRROR": set(),
    "STREAM.NAMES": {"api", "deployer"},
    "STREAM.SNAPSHOT.EVENTS": set(),
    "STREAM.MSG.DELETE.EVENTS": set(),
    "STREAM.PURGE.OBJ_ARTIFACTS": {"api"},
    **{
        f"STREAM.{verb}.{stream}": set()
        for verb in ("UPDATE", "DELETE")
        for stream in ("EVENTS", "USAGE", "COMMANDS", "DEADLETTERS", "KV_TOTALS", "OBJ_ARTIFACTS")
    },
    **{f"STREAM.PURGE.{stream}": set() for stream in ("EVENTS", "USAGE", "COMMANDS", "KV_TOTALS")},
}
RPCS = {
    subjects.RPC_USAGE: {"api"},
    subjects.RPC_RECENT_EVENTS: {"api"},
    subjects.RPC_SET_TIER: set(),
    subjects.RPC_REBUILD: set(),
    **{maintenance.subject(service, maintenance.REPLAY): set() for service in SERVICES},
    maintenance.subject("api", maintenance.REPUBLISH): set(),
}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_reads_its_streams_and_removes_none(
    service: str, bus_url: Callable[[str], str]
) -> None:
    asked = {f"$JS.API.{request}": owners for request, owners in REQUESTS.items()} | RPCS
    denied: set[str] = set()

    async def on_error(error: Exception) -> None:
        told = str(error).lower()
        denied.update(subject for subject in asked if f'"{subject.lower()}"' in told)

    async def as_listed() -> bool:
        return denied == {subject for subject, owners in asked.items() if service not in owners}

    async with await nats.connect(bus_url(service), error_cb=on_error) as client:
        for subject in asked:
            await client.publish(subject, b"")
        await client.flush()
        await eventually(as_listed, "a refusal for everything that is not this service's")


async def test_a_service_receives_only_its_own_requests_and_replies(
    bus_url: Callable[[str], str],
) -> None:
    denied: list[str] = []

    async def on_error(error: Exception) -> None:
        denied.append(str(error).lower())

    async def refused() -> bool:
        return {"rpc.billing.>", "_inbox.api.>"} <= {part for e in denied for part in e.split('"')}

    async with await nats.connect(bus_url("gateway"), error_cb=on_error) as client:
        await client.subscribe("rpc.gateway.>")
        await client.subscribe("_INBOX.gateway.>")
        await client.subscribe("rpc.billing.>")
        await client.subscribe("_INBOX.api.>")
        await eventually(refused, "the refusal of billing's requests and the api's answers")
    assert not any("gateway" in error for error in denied)


async def test_a_question_reaches_its_owner_and_the_answer_comes_back(
    bus_url: Callable[[str], str],
) -> None:
    async def answer(message: Msg) -> None:
        await message.respond(b"42")

    async with (
        await nats.connect(bus_url("billing")) as billing,
        await nats.connect(bus_url("api"), inbox_prefix=inbox_prefix("api")) as api,
    ):
        await billing.subscribe("rpc.billing.usage", cb=answer)
        await billing.flush()
        assert (await api.request("rpc.billing.usage", b"?", timeout=5)).data == b"42"


def test_a_role_is_alone_with_its_schema(postgres_server: Postgres, identities: Identities) -> None:
    database = postgres_server.dsn_of("webhost")
    passwords = identities.postgres_roles
    for _ in range(2):  # the second time changes nothing
        provision(postgres_server.dsn, database, passwords)

    def connect(service: str) -> psycopg.Connection:
        login = f"{role(service)}:{passwords[service]}"
        address = database.rpartition("@")[2]
        return psycopg.connect(f"postgresql://{login}@{address}", autocommit=True)

    for service in SERVICES:
        with connect(service) as connection:
            connection.execute("CREATE TABLE mine (value int)")
            found = connection.execute(
                "SELECT schemaname, tableowner FROM pg_tables WHERE tablename = 'mine' "
                "AND schemaname = %s",
                [schema(service)],
            ).fetchone()
            assert found == (schema(service), role(service))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("CREATE TABLE public.not_mine ()")
    with connect("gateway") as connection:
        for other in set(SERVICES) - {"gateway"}:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {schema(other)}.mine")  # pyright: ignore


def test_identities_stay_and_what_is_missing_is_added(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    first = load_or_make(data_dir)
    assert load_or_make(data_dir) == first
    assert data_dir.secrets.stat().st_mode & 0o777 == 0o600
    text = data_dir.secrets.read_text()
    data_dir.secrets.write_text(text.replace('"platformSeed"', '"somethingElse"'))
    again = load_or_make(data_dir)
    assert again.invoke_seed == first.invoke_seed
    assert again.platform_seed != first.platform_seed
    assert load_or_make(data_dir) == again
