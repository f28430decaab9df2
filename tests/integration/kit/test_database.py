"""The database under load."""

import pytest
from sqlalchemy import text
from webhost_kit.database import Database
from webhost_kit.errors import Unavailable


async def test_where_no_connection_becomes_free_the_caller_may_come_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhost_kit.database.CONNECT_TIMEOUT_S", 1)
    database = Database(database_url, pool_size=1)
    async with database.transaction() as one, database.transaction() as two:
        await one.execute(text("SELECT 1"))
        await two.execute(text("SELECT 1"))
        with pytest.raises(Unavailable):
            async with database.transaction():
                pass
    await database.close()
