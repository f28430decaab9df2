"""The database under load, and at the other end of a network that fails."""

from contextlib import AsyncExitStack

import pytest
from sqlalchemy import text
from webhost_kit.database.engine import VANISHED_AFTER_S, Database
from webhost_kit.errors import Unavailable

from tests.integration.kit.conftest import House, in_background
from tests.integration.kit.test_outbox_to_projection import projector
from tests.support.deadline import eventually


async def test_where_no_connection_becomes_free_the_caller_may_come_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhost_kit.database.engine.CONNECT_TIMEOUT_S", 1)
    database = Database(database_url, pool_size=1)
    async with database.transaction() as one, database.transaction() as two:
        await one.execute(text("SELECT 1"))
        await two.execute(text("SELECT 1"))
        with pytest.raises(Unavailable):
            async with database.transaction():
                pass
    await database.close()


async def test_a_projector_outlives_a_full_pool(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhost_kit.database.engine.CONNECT_TIMEOUT_S", 0.2)
    house.database = crowded = Database(house.dsn, pool_size=1)
    names = projector(house)
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


async def test_a_peer_that_vanished_is_noticed_by_the_server_too(house: House) -> None:
    """Otherwise its locks are held for the two hours of the system's own keepalives."""
    names = ("idle", "interval", "count")
    shown = [int(await house.scalar(f"SHOW tcp_keepalives_{name}")) for name in names]
    idle_s, interval_s, count = shown
    assert idle_s + interval_s * count <= VANISHED_AFTER_S
    assert int(await house.scalar("SHOW tcp_user_timeout")) == VANISHED_AFTER_S * 1000


async def test_a_database_that_does_not_answer_holds_nobody_up_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.database.transaction() as holder:
        await holder.execute(text("LOCK TABLE names"))
        monkeypatch.setattr("webhost_kit.database.engine.TRANSACTION_TIMEOUT_S", 0.5)
        with pytest.raises(Unavailable):
            await house.scalar("SELECT count(*) FROM names")
    assert await house.scalar("SELECT count(*) FROM names") == 0
