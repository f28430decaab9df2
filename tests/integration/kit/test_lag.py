"""How far a projection is behind, and what waits in the outbox, as metrics say."""

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_kit.bus import streams
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import connect
from webhost_kit.bus.pull import SILENCE_S
from webhost_kit.eventsourcing import lag, outbox_watch
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.outbox_watch import OutboxWatch
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.eventsourcing.relay import Relay

from tests.integration.kit.test_outbox_to_projection import TYPES, create
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background
from tests.support.proxy import Proxy

LABELS = {"projection": "lagging", "partition": "all"}


def value(name: str, labels: dict[str, str] | None = None) -> float | None:
    return REGISTRY.get_sample_value(name, labels or {})


async def until_value(name: str, wanted: float | None, labels: dict[str, str]) -> None:
    async def there() -> bool:
        return value(name, labels) == wanted

    await eventually(there, f"{name} to be {wanted}, not {value(name, labels)}")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "RECOUNT_S", 0.2)
    monkeypatch.setattr(outbox_watch, "POLL_INTERVAL_S", 0.05)


async def test_a_fold_that_is_stuck_is_more_and_more_behind(harness: Harness) -> None:
    go_on = asyncio.Event()

    async def fold(_: AsyncConnection, facts: Sequence[Fact], __: Checkpoint) -> None:
        await go_on.wait()

    names = Projector(
        "lagging", harness.database, harness.bus, subjects.EVENTS, ["evt.>"], TYPES, fold
    )
    assert value("webhost_projector_lag_messages", LABELS) is None
    async with in_background(Relay(harness.dsn, harness.bus).run(), names.run()):
        await until_value("webhost_projector_lag_messages", 0, LABELS)
        await create(harness, "agt_1", "first")
        await until_value("webhost_projector_lag_messages", 1, LABELS)
        await create(harness, "agt_2", "second", "third")
        await until_value("webhost_projector_lag_messages", 3, LABELS)
        before = value("webhost_projector_lag_seconds", LABELS) or 0.0
        await asyncio.sleep(0.1)
        assert (value("webhost_projector_lag_seconds", LABELS) or 0.0) >= before + 0.09
        go_on.set()
        await until_value("webhost_projector_lag_messages", 0, LABELS)
        assert value("webhost_projector_lag_seconds", LABELS) == 0
    # Who does not fold does not say that it is current.
    assert value("webhost_projector_lag_messages", LABELS) is None
    assert value("webhost_projector_lag_seconds", LABELS) is None


async def test_who_hears_nothing_does_not_say_that_it_is_current(
    harness: Harness, nats_account: str
) -> None:
    async def fold(_: AsyncConnection, facts: Sequence[Fact], __: Checkpoint) -> None:
        return

    account, _, host = nats_account.rpartition("@")
    async with Proxy(int(host.rpartition(":")[2])) as proxy:
        bus = await connect(f"{account}@127.0.0.1:{proxy.port}", "test")
        names = Projector("lagging", harness.database, bus, subjects.EVENTS, ["evt.>"], TYPES, fold)
        async with in_background(Relay(harness.dsn, harness.bus).run(), names.run()):
            await until_value("webhost_projector_lag_messages", 0, LABELS)
            proxy.hold()

            async def noticed() -> bool:
                return names.check() is not None

            await eventually(noticed, "the silence to be noticed")
            assert value("webhost_projector_lag_messages", LABELS) is None
            await create(harness, "agt_1", "first")
            # It gives up folding, and comes back to it, without having heard anything.
            seen = set[bool]()
            async with asyncio.timeout(60):
                while len(seen) < 2:
                    assert value("webhost_projector_lag_messages", LABELS) is None
                    seconds = value("webhost_projector_lag_seconds", LABELS)
                    seen.add(seconds is None)
                    assert seconds is None or seconds > SILENCE_S
                    await asyncio.sleep(0.05)
            proxy.release()
            await until_value("webhost_projector_lag_messages", 0, LABELS)
            assert value("webhost_projector_lag_seconds", LABELS) == 0
        await bus.close()


async def test_a_halted_projection_says_so(harness: Harness) -> None:
    async def fold(_: AsyncConnection, facts: Sequence[Fact], __: Checkpoint) -> None:
        return

    names = Projector(
        "lagging", harness.database, harness.bus, subjects.EVENTS, ["evt.>"], TYPES, fold
    )
    async with in_background(Relay(harness.dsn, harness.bus).run()):
        async with in_background(names.run()):
            await create(harness, "agt_1", "first")
            await harness.until_scalar(
                "SELECT coalesce(max(sequence), 0) FROM checkpoints", 1, "a checkpoint"
            )
            assert value("webhost_projector_halted", LABELS) == 0
        await harness.bus.js.delete_stream(subjects.EVENTS)
        await streams.make(harness.bus.js, subjects.EVENTS)
        async with in_background(names.run()):
            await until_value("webhost_projector_halted", 1, LABELS)
            assert (value("webhost_projector_lag_seconds", LABELS) or 0.0) >= 0
            await create(harness, "agt_2", "second")
            await create(harness, "agt_3", "third")
            await names.reset()
            await until_value("webhost_projector_halted", 0, LABELS)
            await until_value("webhost_projector_lag_messages", 0, LABELS)
            assert value("webhost_projector_lag_seconds", LABELS) == 0


async def test_what_waits_in_the_outbox_while_nobody_relays(harness: Harness) -> None:
    async with in_background(OutboxWatch(harness.database).run()):
        await until_value("webhost_outbox_rows_waiting", 0, {})
        assert value("webhost_outbox_oldest_age_seconds") == 0
        await create(harness, "agt_1", "first", "second")
        await until_value("webhost_outbox_rows_waiting", 2, {})
        before = value("webhost_outbox_oldest_age_seconds") or 0.0
        await asyncio.sleep(0.1)
        assert 0.09 <= (value("webhost_outbox_oldest_age_seconds") or 0.0) - before < 5
        async with in_background(Relay(harness.dsn, harness.bus).run()):
            await until_value("webhost_outbox_rows_waiting", 0, {})
        assert value("webhost_outbox_oldest_age_seconds") == 0
