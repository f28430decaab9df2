"""A memory never goes back on its stream; on another stream it knows nothing of what it knew."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import AgentCreated, AgentUpdated
from webhost_contracts.events.base import by_name
from webhost_kit.eventsourcing import memory as kit
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.memory import InMemoryProjection
from webhost_kit.eventsourcing.projector import Projector

from tests.integration.kit.test_outbox_to_projection import fold_names
from tests.integration.kit.test_restore import backup_of as copy_of
from tests.integration.kit.test_restore import swap
from tests.support.backup import RestorableNats, running_restorable_nats
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background
from tests.support.infra import Postgres

TYPES = by_name(AgentCreated, AgentUpdated)
SUBJECTS = ["evt.*.agent.>"]


class Names:
    """Names in memory, by agent; the table's column `seen` is their version."""

    def __init__(self, harness: Harness) -> None:
        self.known: dict[str, tuple[int, str]] = {}
        self.asked = 0
        self.loads: list[bool] = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.memory = InMemoryProjection(
            "names",
            harness.database,
            harness.bus,
            subjects.EVENTS,
            SUBJECTS,
            TYPES,
            self.fold,
            self.load,
        )

    def fold(self, fact: Fact) -> None:
        event = fact.event
        assert isinstance(event, AgentCreated | AgentUpdated)
        assert event.name is not None
        self.add(fact.envelope.aggregate_id, fact.envelope.version, event.name)

    def add(self, agent: str, version: int, name: str) -> None:
        if version > self.known.get(agent, (0, ""))[0]:
            self.known[agent] = (version, name)

    async def load(self, connection: AsyncConnection, anew: bool) -> None:
        self.asked += 1
        await self.may_load.wait()
        found = (await connection.execute(text("SELECT id, seen, name FROM names"))).all()
        if anew:
            self.known.clear()
        for row in found:
            self.add(*row)
        self.loads.append(anew)

    async def until(self, expected: dict[str, tuple[int, str]]) -> None:
        async def holds() -> bool:
            return self.memory.usable and self.memory.check() is None and self.known == expected

        await eventually(holds, f"the memory to be {expected}", seconds=20)
        assert measured_usable() == 1

    async def until_halted(self) -> None:
        async def halted() -> bool:
            return "halted" in (self.memory.check() or "")

        await eventually(halted, "the memory to halt", seconds=20)
        assert not self.memory.usable
        assert measured_usable() == 0


def measured_usable() -> float | None:
    return REGISTRY.get_sample_value("webhost_memory_usable", {"projection": "names"})


@pytest.fixture
def nats() -> Iterator[RestorableNats]:
    with running_restorable_nats() as nats:
        yield nats


@pytest.fixture
def nats_account(nats: RestorableNats) -> str:
    """The harness is on this server."""
    return nats.url


async def state(harness: Harness, agent: str, version: int, name: str) -> None:
    event = AgentCreated(name=name) if version == 1 else AgentUpdated(name=name)
    await harness.given("usr_1", agent, event, version=version)


def projector(harness: Harness) -> Projector:
    return Projector(
        "names", harness.database, harness.bus, subjects.EVENTS, SUBJECTS, TYPES, fold_names
    )


async def folded(harness: Harness, expected: int) -> None:
    await harness.until_scalar(
        "SELECT coalesce(sum(seen), 0) FROM names", expected, f"{expected} facts in the table"
    )


async def copied_after_first(harness: Harness, postgres: Postgres, name: str) -> str:
    """Copy the database once it holds the first fact, this name of agt_1; return the copy's DSN."""
    await state(harness, "agt_1", 1, name)
    async with in_background(projector(harness).run()):
        await folded(harness, 1)
    await harness.database.close()
    return copy_of(postgres, harness.dsn)


@asynccontextmanager
async def remembering(harness: Harness) -> AsyncIterator[Names]:
    names = Names(harness)
    async with in_background(names.memory.run()):
        yield names


@pytest.mark.accept("A1")
async def test_what_was_lost_in_a_restore_of_both_is_forgotten(
    harness: Harness, nats: RestorableNats, postgres_server: Postgres
) -> None:
    """The memory was loaded at the very place that the backup is of."""
    database = await copied_after_first(harness, postgres_server, "kept")
    await nats.back_up(harness.bus)

    async with remembering(harness) as names:
        async with in_background(projector(harness).run()):
            await state(harness, "agt_1", 2, "lost")
            await state(harness, "agt_2", 1, "lost too")
            await names.until({"agt_1": (2, "lost"), "agt_2": (1, "lost too")})
            await folded(harness, 3)

        await nats.restore(harness.bus)
        # The table still is of the lost future: it must not be loaded.
        await names.until_halted()
        names.may_load.clear()
        swap(postgres_server, harness.dsn, database)
        async with in_background(projector(harness).run()):
            # While its content is in question nobody may use it, however long that takes.
            await state(harness, "agt_1", 2, "of now")
            await folded(harness, 2)
            assert names.loads == [True]
            assert not names.memory.usable
            assert names.memory.check() is not None
            names.may_load.set()
            await names.until({"agt_1": (2, "of now")})
            assert names.loads == [True, True]
            await state(harness, "agt_2", 1, "new")
            await names.until({"agt_1": (2, "of now"), "agt_2": (1, "new")})


@pytest.mark.accept("A1")
async def test_the_memory_is_not_usable_before_it_has_caught_up_again(
    harness: Harness, nats: RestorableNats
) -> None:
    """The table is made anew from the start, and has only begun."""
    await state(harness, "agt_1", 1, "first")
    async with in_background(projector(harness).run()):
        await folded(harness, 1)
    await nats.back_up(harness.bus)
    async with remembering(harness) as names:
        async with in_background(projector(harness).run()):
            await state(harness, "agt_1", 2, "lost")
            await names.until({"agt_1": (2, "lost")})
            await folded(harness, 2)
        await nats.restore(harness.bus)
        await names.until_halted()
        await state(harness, "agt_2", 1, "second")

        seen: list[set[str]] = []
        fold = names.fold

        def watched(fact: Fact) -> None:
            assert not names.memory.usable
            seen.append(set(names.known))
            fold(fact)

        names.memory._fold = watched  # pyright: ignore[reportPrivateUsage]
        await harness.execute("DELETE FROM names")
        await projector(harness).reset()
        await names.until({"agt_1": (1, "first"), "agt_2": (1, "second")})
        assert seen == [set(), {"agt_1"}]


@pytest.mark.accept("A1")
async def test_an_older_table_takes_nothing_from_the_memory(
    harness: Harness, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres alone was restored; that what is held back is not parked there loads it again."""
    monkeypatch.setattr(kit, "RELEASE_S", 0.1)
    database = await copied_after_first(harness, postgres_server, "first")
    async with remembering(harness) as names:
        await state(harness, "agt_1", 2, "second")
        await names.until({"agt_1": (2, "second")})
        swap(postgres_server, harness.dsn, database)
        names.memory._hold_back("agt_3", "for a test")  # pyright: ignore[reportPrivateUsage]

        async def loaded_again() -> bool:
            assert names.memory.usable
            assert names.known["agt_1"] == (2, "second")
            return names.loads == [True, False]

        await eventually(loaded_again, "the memory to load the older table")
        await state(harness, "agt_3", 1, "third")
        await names.until({"agt_1": (2, "second"), "agt_3": (1, "third")})


@pytest.mark.accept("A1")
async def test_a_memory_that_loads_an_older_table_still_notices_another_stream(
    harness: Harness,
    nats: RestorableNats,
    postgres_server: Postgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The restored table fits the restored stream; what the memory holds beside it does not."""
    monkeypatch.setattr(kit, "RELEASE_S", 0.1)
    database = await copied_after_first(harness, postgres_server, "first")
    await nats.back_up(harness.bus)
    async with remembering(harness) as names:
        await state(harness, "agt_1", 2, "lost")
        await names.until({"agt_1": (2, "lost")})
        names.may_load.clear()
        swap(postgres_server, harness.dsn, database)
        names.memory._hold_back("agt_3", "for a test")  # pyright: ignore[reportPrivateUsage]

        async def loading() -> bool:
            return names.asked == 2

        await eventually(loading, "the memory to load again")
        await nats.restore(harness.bus)
        names.may_load.set()
        await names.until({"agt_1": (1, "first")})
        assert names.loads == [True, False, True]
