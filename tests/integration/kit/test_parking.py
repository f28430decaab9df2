"""What a fold cannot use is parked, with later events of its aggregate; the rest continues."""

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects, wire
from webhost_contracts.events import AgentCreated, AgentUpdated
from webhost_contracts.events.base import Envelope, by_name
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.eventsourcing import parked, parking
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.memory import InMemoryProjection
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.eventsourcing.relay import Relay
from webhost_kit.eventsourcing.store import append

from tests.integration.kit.test_outbox_to_projection import WHO, create, fold_names
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background

TYPES = by_name(AgentCreated, AgentUpdated)


@dataclasses.dataclass
class Digestion:
    """A fold of names that cannot digest some."""

    poison: str
    conflicts: int = 0
    """How often another transaction is still in its way."""

    async def fold(
        self, connection: AsyncConnection, facts: Sequence[Fact], behind: Checkpoint
    ) -> None:
        if self.conflicts:
            self.conflicts -= 1
            await connection.execute(text("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))
        await fold_names(connection, facts, behind)
        for fact in facts:
            assert isinstance(fact.event, AgentCreated | AgentUpdated)
            if fact.event.name == self.poison:
                await connection.execute(text("SELECT 1 / 0"))


def projector(harness: Harness, fold: Digestion, types: object = TYPES) -> Projector:
    return Projector(
        "names", harness.database, harness.bus, subjects.EVENTS, ["evt.>"], TYPES, fold.fold
    )


async def folded(harness: Harness, expected: int) -> None:
    async def holds() -> bool:
        return await harness.scalar("SELECT count(*) FROM names") == expected

    await eventually(holds, f"{expected} names")


async def relayed(harness: Harness) -> None:
    async def empty() -> bool:
        return await harness.scalar("SELECT count(*) FROM outbox") == 0

    await eventually(empty, "an empty outbox", seconds=20)


async def waiting(harness: Harness) -> list[tuple[str | None, int | None, str]]:
    async with harness.database.transaction() as connection:
        return [
            (event.aggregate_id, event.version, event.reason)
            for event in await parked.list_parked(connection, "names")
        ]


def stated(version: int, type_name: str, name: str) -> bytes:
    """A fact about agt_1, of whatever type."""
    return wire.encode(
        Envelope(
            event_id=f"evt_{version}",
            aggregate_id="agt_1",
            version=version,
            user_id="usr_1",
            occurred_at_ms=1,
            actor="test",
            data=msgspec.Raw(wire.encode({"type": type_name, "name": name})),
        )
    )


@pytest.mark.accept("A6")
async def test_a_deadlock_leaves_nothing_parked(harness: Harness) -> None:
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        await create(harness, "agt_1", "poison")
        await relayed(harness)
    async with in_background(projector(harness, Digestion("poison")).run()):

        async def set_aside() -> bool:
            return len(await waiting(harness)) == 1

        await eventually(set_aside, "the fact to be parked")
    async with in_background(projector(harness, Digestion("none", conflicts=2)).run()):
        await folded(harness, 1)
    assert await waiting(harness) == []


@pytest.mark.accept("A6")
async def test_one_bad_fact_among_many_is_set_aside(harness: Harness) -> None:
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        for number in range(40):
            await create(harness, f"agt_{number}", "good")
        await create(harness, "agt_bad", "good", "poison", "after", "after that")
        for number in range(40, 80):
            await create(harness, f"agt_{number}", "good")
        await relayed(harness)
        digestion = Digestion("poison")
        names = projector(harness, digestion)
        async with in_background(names.run()):
            await folded(harness, 81)

            async def caught_up() -> bool:
                return names.check() is None and names.note() == "3 parked"

            await eventually(caught_up, "the projection to be current, with three parked")
            found = await waiting(harness)
            assert [(one[0], one[1]) for one in found] == [
                ("agt_bad", 2),
                ("agt_bad", 3),
                ("agt_bad", 4),
            ]
            assert "DivisionByZero" in found[0][2]
            assert found[1][2] == found[2][2] == parked.BEHIND
            assert await harness.scalar("SELECT sum(seen) FROM names") == 81

            await create(harness, "agt_new", "flows")
            await folded(harness, 82)
            assert await names.replay_parked() == (0, 3)
            digestion.poison = "nothing"
            assert await names.replay_parked() == (3, 0)
            assert names.note() is None
            assert (
                await harness.scalar("SELECT name FROM names WHERE id = 'agt_bad'") == "after that"
            )
            assert await harness.scalar("SELECT sum(seen) FROM names") == 85


@pytest.mark.accept("A6")
async def test_what_is_parked_is_told_by_who_folds_whoever_replays_it(harness: Harness) -> None:
    def told() -> float | None:
        labels = {"projection": "names", "partition": "all"}
        return REGISTRY.get_sample_value("webhost_projector_parked_events", labels)

    digestion = Digestion("poison")
    replica = projector(harness, digestion)
    names = projector(harness, digestion)  # the later one is what this process' metrics read
    async with in_background(Relay(harness.dsn, harness.bus).run(), names.run()):
        await create(harness, "agt_bad", "good", "poison", "after")

        async def two_parked() -> bool:
            return told() == 2 and names.note() == "2 parked"

        await eventually(two_parked, "two to be parked", seconds=20)
        assert replica.note() is None

        digestion.poison = "nothing"
        assert await replica.replay_parked() == (2, 0)

        async def none_parked() -> bool:
            return told() == 0 and names.note() is None

        await eventually(none_parked, "who folds to know of it", seconds=20)
        assert replica.note() is None
    assert told() is None, "who no longer folds tells nothing"


@pytest.mark.accept("A6")
async def test_what_comes_later_waits_behind_what_is_parked(harness: Harness) -> None:
    names = projector(harness, Digestion("poison"))
    async with in_background(Relay(harness.dsn, harness.bus).run(), names.run()):
        await create(harness, "agt_bad", "good", "poison")

        async def one_parked() -> bool:
            return names.note() == "1 parked"

        await eventually(one_parked, "one to be parked", seconds=20)
        async with harness.database.transaction() as connection:
            await append(connection, "agt_bad", "usr_1", 2, [AgentUpdated(name="later")], WHO)
        await relayed(harness)
        await create(harness, "agt_new", "flows")
        await folded(harness, 2)
        assert [(one[0], one[1], one[2] == parked.BEHIND) for one in await waiting(harness)] == [
            ("agt_bad", 2, False),
            ("agt_bad", 3, True),
        ]
        assert await harness.scalar("SELECT name FROM names WHERE id = 'agt_bad'") == "good"


@pytest.mark.accept("A6")
async def test_a_memory_holds_back_what_follows_too(harness: Harness) -> None:
    seen: list[tuple[str, int]] = []

    def fold(fact: Fact) -> None:
        assert isinstance(fact.event, AgentCreated | AgentUpdated)
        if fact.event.name == "poison":
            raise ValueError(fact.event.name)
        seen.append((fact.envelope.aggregate_id, fact.envelope.version))

    async def load(_connection: AsyncConnection, _anew: bool) -> None:
        """Nothing: the table is empty."""

    memory = InMemoryProjection(
        "names", harness.database, harness.bus, subjects.EVENTS, ["evt.>"], TYPES, fold, load
    )
    async with in_background(Relay(harness.dsn, harness.bus).run(), memory.run()):
        await create(harness, "agt_bad", "good", "poison", "after")
        await relayed(harness)
        await create(harness, "agt_new", "flows")

        async def flows() -> bool:
            return ("agt_new", 1) in seen

        await eventually(flows, "the other agent")
        assert ("agt_bad", 1) in seen
        assert ("agt_bad", 3) not in seen


@pytest.mark.accept("A6")
async def test_an_unknown_version_is_parked_and_folded_by_who_knows_it(harness: Harness) -> None:
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        await create(harness, "agt_1", "first")
        await relayed(harness)
        for type_name, body in (
            ("agent.renamed.v7", stated(2, "agent.renamed.v7", "second")),
            ("agent.updated.v1", stated(3, "agent.updated.v1", "third")),
            ("secret.set.v1", b"of a kind that this fold is not about"),
            ("agent.deleted.v1", b"known to the contracts, not asked for here"),
        ):
            await harness.bus.js.publish(
                "evt.usr_1.agent.agt_1", body, headers={subjects.TYPE_HEADER: type_name}
            )
        await create(harness, "agt_2", "flows")
        async with in_background(projector(harness, Digestion("")).run()):
            await folded(harness, 2)
        assert [(one[0], one[1]) for one in await waiting(harness)] == [("agt_1", 2), ("agt_1", 3)]

        # What a new version of the service knows, it folds before anything else.
        class AgentRenamed(AgentUpdated, frozen=True, kw_only=True, tag="agent.renamed.v7"):
            """A type that the old version has never heard of."""

        upgraded = Projector(
            "names",
            harness.database,
            harness.bus,
            subjects.EVENTS,
            ["evt.>"],
            TYPES | by_name(AgentRenamed),
            fold_names,
        )
        async with in_background(upgraded.run()):

            async def renamed() -> bool:
                return await harness.scalar("SELECT name FROM names WHERE id = 'agt_1'") == "third"

            await eventually(renamed, "what was parked to be folded")
            assert await harness.scalar("SELECT seen FROM names WHERE id = 'agt_1'") == 3
            assert await waiting(harness) == []


@pytest.mark.accept("A6")
async def test_a_fold_that_can_digest_nothing_halts(harness: Harness) -> None:
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        for number in range(30):
            await create(harness, f"agt_{number}", *["poison"] * 40)
        await relayed(harness)
        names = projector(harness, Digestion("poison"))
        async with in_background(names.run()):

            async def halted() -> bool:
                return "halted" in (names.check() or "")

            await eventually(halted, "the projection to halt", seconds=30)
        assert await harness.scalar("SELECT count(*) FROM parked_events") <= 1_000


@pytest.mark.accept("6.D1")
async def test_what_is_on_a_foreign_subject_is_refused_and_holds_nobody_back(
    harness: Harness,
) -> None:
    names = projector(harness, Digestion("poison"))
    async with in_background(Relay(harness.dsn, harness.bus).run(), names.run()):
        await create(harness, "agt_1", "good")
        await folded(harness, 1)
        foreign = "evt.usr_2.agent.agt_1"
        headers = {subjects.TYPE_HEADER: "agent.updated.v1"}
        body = stated(2, "agent.updated.v1", "stolen")
        for _ in range(parking.MOST_PARKED + 1):
            await harness.bus.client.publish(foreign, body, headers=headers)
        async with harness.database.transaction() as connection:
            await append(connection, "agt_1", "usr_1", 1, [AgentUpdated(name="mine")], WHO)

        async def mine() -> bool:
            return await harness.scalar("SELECT name FROM names WHERE id = 'agt_1'") == "mine"

        await eventually(mine, "the owner's fact", seconds=20)

        async def current() -> bool:
            return names.check() is None

        # The relay may have been faster with that fact than we with the last of the others.
        await eventually(current, "the others to be refused")
        # Visible, but not without bound; and a replay decides the same.
        [first, *rest] = await waiting(harness)
        assert (first[0], first[2]) == (
            None,
            f"agent.updated.v1 of usr_1 about agt_1: not to be stated on {foreign}",
        )
        assert len(rest) == parking.MOST_REFUSED - 1
        assert await names.replay_parked() == (0, parking.MOST_REFUSED)
        refused = REGISTRY.get_sample_value(
            "webhost_projector_facts_refused_total", {"projection": "names"}
        )
        assert refused == parking.MOST_PARKED + 1
