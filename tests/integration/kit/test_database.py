"""The database under load, and at the other end of a network that fails."""

from contextlib import AsyncExitStack

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from webhost_kit.database.engine import VANISHED_AFTER_S, Database
from webhost_kit.errors import Unavailable

from tests.integration.kit.test_outbox_to_projection import projector
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background


async def test_where_no_connection_becomes_free_the_caller_may_come_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhost_kit.database.engine.CONNECT_TIMEOUT_S", 1)
    database = Database(database_url, pool_size=1)
    assert measured() == (0, 2)
    async with database.transaction() as one, database.transaction() as two:
        await one.execute(text("SELECT 1"))
        await two.execute(text("SELECT 1"))
        assert measured() == (2, 2)
        with pytest.raises(Unavailable):
            async with database.transaction():
                pass
    # One of them is kept for the next.
    assert measured() == (0, 2)
    await database.close()


def measured() -> tuple[float | None, ...]:
    """How many connections are in use, and how many there may be."""
    names = ("in_use", "max")
    return tuple(REGISTRY.get_sample_value(f"webhost_database_connections_{n}") for n in names)


async def test_a_projector_outlives_a_full_pool(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhost_kit.database.engine.CONNECT_TIMEOUT_S", 0.2)
    harness.database = crowded = Database(harness.dsn, pool_size=1)
    names = projector(harness)
    async with AsyncExitStack() as stack:
        async with crowded.transaction() as one, crowded.transaction() as two:
            await one.execute(text("SELECT 1"))
            await two.execute(text("SELECT 1"))
            await stack.enter_async_context(in_background(names.run()))

            async def complains() -> bool:
                return "away" in (names.check() or "")

            await eventually(complains, "readiness notices")

        async def content() -> bool:
            return names.check() is None

        await eventually(content, "the projector comes back")
    await crowded.close()


async def test_a_peer_that_vanished_is_noticed_by_the_server_too(harness: Harness) -> None:
    """Otherwise its locks are held for the two hours of the system's own keepalives."""
    names = ("idle", "interval", "count")
    shown = [int(await harness.scalar(f"SHOW tcp_keepalives_{name}")) for name in names]
    idle_s, interval_s, count = shown
    assert idle_s + interval_s * count <= VANISHED_AFTER_S
    assert int(await harness.scalar("SHOW tcp_user_timeout")) == VANISHED_AFTER_S * 1000


async def test_a_database_that_does_not_answer_holds_nobody_up_for_ever(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness.database.transaction() as holder:
        await holder.execute(text("LOCK TABLE names"))
        monkeypatch.setattr("webhost_kit.database.engine.TRANSACTION_TIMEOUT_S", 0.5)
        with pytest.raises(Unavailable):
            await harness.scalar("SELECT count(*) FROM names")
    assert await harness.scalar("SELECT count(*) FROM names") == 0
