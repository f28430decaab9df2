"""A database older than its stream recovers its own facts before anything is written to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import AgentCreated, AgentUpdated
from webhost_kit.bus.connection import connect
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.own_facts import OwnFacts
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.eventsourcing.store import EventMetadata, append, require_verified

from tests.integration.kit.test_outbox_to_projection import TYPES
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background
from tests.support.infra import Postgres
from tests.support.proxy import Proxy

WHO = EventMetadata(actor="test")


async def recover(connection: AsyncConnection, fact: Fact) -> None:
    assert isinstance(fact.event, AgentCreated | AgentUpdated)
    await connection.execute(
        text(
            "INSERT INTO names VALUES (:id, :name, 1)"
            " ON CONFLICT (id) DO UPDATE SET name = :name, seen = names.seen + 1"
        ),
        {"id": fact.envelope.aggregate_id, "name": fact.event.name},
    )


async def name(database: Database, agent: str, after_version: int, text_: str) -> None:
    """Decide a new name, as a service does: the fact and its row in one transaction."""
    event = AgentCreated(name=text_) if after_version == 0 else AgentUpdated(name=text_)
    async with database.transaction() as connection:
        await append(connection, agent, "usr_1", after_version, [event], WHO)
        await connection.execute(
            text(
                "INSERT INTO names VALUES (:id, :name, 1)"
                " ON CONFLICT (id) DO UPDATE SET name = :name, seen = names.seen + 1"
            ),
            {"id": agent, "name": text_},
        )


def own_facts(harness: Harness, database: Database) -> OwnFacts:
    return OwnFacts("test", database, harness.bus, ["evt.*.agent.*"], TYPES, recover)


async def verified(part: OwnFacts) -> None:
    async def holds() -> bool:
        return part.check() is None

    await eventually(holds, "own facts to be compared")


@asynccontextmanager
async def serving(harness: Harness, database: Database) -> AsyncIterator[OwnFacts]:
    """A service on this database: own facts and relay."""
    part = own_facts(harness, database)
    async with in_background(
        part.run(), Relay(database.dsn, harness.bus, part.check).run(), database.run()
    ):
        await verified(part)
        yield part


async def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.transaction() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def relayed(database: Database) -> None:
    async def empty() -> bool:
        return await rows(database, "SELECT count(*) FROM outbox") == [(0,)]

    await eventually(empty, "an empty outbox")


def swap(postgres: Postgres, dsn: str, backup: str) -> None:
    """Put the backup where the database was, under its clients, as a restore does."""
    current, old = dsn.rpartition("/")[2], backup.rpartition("/")[2]
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s)",
            ([current, old],),
        )
        for a, b in ((current, f"{current}_gone"), (old, current)):
            connection.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(a), sql.Identifier(b)
                )
            )


def backup_of(postgres: Postgres, dsn: str) -> str:
    """A copy of the database as it is now; its clients are sent away for that."""
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (dsn.rpartition("/")[2],),
        )
    return postgres.create_database(dsn.rpartition("/")[2])


@pytest.mark.accept("A1")
async def test_a_restored_database_takes_its_own_facts_back(
    harness: Harness, postgres_server: Postgres
) -> None:
    async with serving(harness, harness.database):
        await name(harness.database, "agt_1", 0, "first")
        await name(harness.database, "agt_2", 0, "first")
        await relayed(harness.database)
    await harness.database.close()
    restored = Database(backup_of(postgres_server, harness.dsn))

    async with serving(harness, harness.database):
        for version in range(1, 6):
            await name(harness.database, "agt_1", version, f"name {version}")
        await name(harness.database, "agt_3", 0, "new")
        await relayed(harness.database)
    everything = "SELECT aggregate_id, version, event_id, envelope FROM events ORDER BY 1, 2"
    lost = await rows(harness.database, everything)
    state = await rows(harness.database, "SELECT id, name FROM names ORDER BY id")

    unverified = own_facts(harness, restored)
    with pytest.raises(Unavailable):
        await name(restored, "agt_1", 1, "a second version 2")
    assert unverified.check() is not None
    async with serving(harness, restored):
        assert await rows(restored, everything) == lost
        assert await rows(restored, "SELECT id, name FROM names ORDER BY id") == state
        assert await rows(restored, "SELECT count(*) FROM outbox") == [(0,)]
        await name(restored, "agt_1", 6, "goes on")
        await relayed(restored)
    info = await harness.bus.js.stream_info(subjects.EVENTS)
    assert info.state.messages == len(lost) + 1
    await restored.close()


@pytest.mark.accept("A1")
async def test_a_database_that_is_restored_under_a_running_service(
    harness: Harness, postgres_server: Postgres
) -> None:
    async with serving(harness, harness.database):
        await name(harness.database, "agt_1", 0, "first")
        await relayed(harness.database)
    await harness.database.close()
    backup = backup_of(postgres_server, harness.dsn)
    async with serving(harness, harness.database) as part:
        await name(harness.database, "agt_1", 1, "second")
        await relayed(harness.database)
        swap(postgres_server, harness.dsn, backup)
        with pytest.raises(Unavailable):
            # Its clients find out by this; the version would be one that the stream has.
            await name(harness.database, "agt_1", 1, "another second")

        async def has_both() -> bool:
            try:
                found = await rows(harness.database, "SELECT name FROM names")
            except Unavailable:
                return False
            return found == [("second",)] and part.check() is None

        await eventually(has_both, "the lost fact to be recovered")
        await name(harness.database, "agt_1", 2, "third")
        await relayed(harness.database)
    info = await harness.bus.js.stream_info(subjects.EVENTS)
    assert info.state.messages == 3


@pytest.mark.accept("A1")
async def test_two_histories_are_refused_with_one_clear_line(
    harness: Harness, postgres_server: Postgres
) -> None:
    async with serving(harness, harness.database):
        await name(harness.database, "agt_1", 0, "first")
        await relayed(harness.database)
    await harness.database.close()
    other = Database(backup_of(postgres_server, harness.dsn))
    async with serving(harness, harness.database):
        await name(harness.database, "agt_1", 1, "here")
        await relayed(harness.database)
    # What an older version of the service could do: append without looking at the stream.
    await name(other, "agt_1", 1, "there")
    part = own_facts(harness, other)
    async with in_background(part.run()):

        async def refuses() -> bool:
            return "version 2 of agt_1" in (part.check() or "")

        await eventually(refuses, "the service to refuse")
        for _ in range(20):
            # Halted is halted: it does not begin again by itself.
            await asyncio.sleep(0.05)
            assert await refuses()
        with pytest.raises(Unavailable):
            await name(other, "agt_1", 2, "never")
    await other.close()


@pytest.mark.accept("A1")
async def test_nothing_is_relayed_to_a_stream_that_is_not_the_one_before(
    harness: Harness,
) -> None:
    account, _, host = harness.nats_url.rpartition("@")
    async with Proxy(int(host.rpartition(":")[2])) as proxy:
        behind = await connect(f"{account}@127.0.0.1:{proxy.port}", "test")
        part = OwnFacts("test", harness.database, behind, ["evt.*.agent.*"], TYPES, recover)
        relay = Relay(harness.dsn, behind, part.check)
        async with in_background(part.run(), relay.run(), harness.database.run()):
            await verified(part)
            await name(harness.database, "agt_1", 0, "first")
            await relayed(harness.database)

            # As after a restore of the bus: while it is away it becomes another one.
            proxy.hold()
            proxy.cut()
            info = await harness.bus.js.stream_info(subjects.EVENTS)
            await harness.bus.js.delete_stream(subjects.EVENTS)
            await harness.bus.js.add_stream(info.config)
            await name(harness.database, "agt_1", 1, "second")
            proxy.release()

            async def refuses() -> bool:
                with suppress(Unavailable):
                    async with harness.database.transaction() as connection:
                        require_verified(connection)
                        return False
                return "halted" in (part.check() or "")

            await eventually(refuses, "appends to be refused")
            state = (await harness.bus.js.stream_info(subjects.EVENTS)).state
            assert state.messages == 0
        await behind.close()


@pytest.mark.accept("A1")
async def test_after_a_reconnect_the_relay_waits_for_a_comparison(harness: Harness) -> None:
    account, _, host = harness.nats_url.rpartition("@")
    async with Proxy(int(host.rpartition(":")[2])) as proxy:
        behind = await connect(f"{account}@127.0.0.1:{proxy.port}", "test")
        part = OwnFacts("test", harness.database, behind, ["evt.*.agent.*"], TYPES, recover)
        async with in_background(part.run()):
            await verified(part)
        assert part.check() is None
        reconnects = behind.reconnects
        proxy.cut()

        async def reconnected() -> bool:
            return behind.reconnects > reconnects and behind.check() is None

        await eventually(reconnected, "a reconnect", seconds=20)
        assert part.check() is not None
        async with in_background(part.run()):
            await verified(part)
        await behind.close()


@pytest.mark.accept("A1")
async def test_a_stream_that_is_lost_under_a_living_connection_is_noticed(
    harness: Harness,
) -> None:
    async with serving(harness, harness.database) as part:
        await name(harness.database, "agt_1", 0, "first")
        followed = "SELECT sequence FROM checkpoints WHERE name = 'test.own-facts'"
        await harness.until_scalar(followed, 1, "the fact to be followed")
        reconnects = harness.bus.reconnects
        info = await harness.bus.js.stream_info(subjects.EVENTS)
        await harness.bus.js.delete_stream(subjects.EVENTS)
        await harness.bus.js.add_stream(info.config)

        async def refuses() -> bool:
            return "halted" in (part.check() or "")

        await eventually(refuses, "the service to refuse", seconds=20)
        with pytest.raises(Unavailable):
            await name(harness.database, "agt_1", 1, "second")
        assert harness.bus.reconnects == reconnects
