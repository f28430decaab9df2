"""Which fronts are marked for new keys, and how many of them are new."""

import sqlalchemy as sa
from webhost_deployer.model import Phase, Step
from webhost_deployer.rotation import store
from webhost_deployer.tables import deployments
from webhost_kit.database.engine import Database
from webhost_kit.database.migrations import upgrade


def row(name: str, *front_keys: str, **more: object) -> dict[str, object]:
    """A live deployment with a front of its own."""
    state: dict[str, object] = {"done": [Step.UPLOAD], "started": {}, "frontKeys": list(front_keys)}
    state |= more
    return {
        "deployment_id": name,
        "user_id": "usr_1",
        "agent_id": f"agt_{name}",
        "phase": Phase.LIVE,
        "state": state,
    }


async def test_only_fronts_that_were_not_marked_yet_are_counted(database_url: str) -> None:
    upgrade(database_url, "webhost_deployer")
    database = Database(database_url)
    try:
        async with database.transaction() as connection:
            rows = [row("dep_1", "i1"), row("dep_2", "i1"), row("dep_3", "i2")]
            await connection.execute(sa.insert(deployments), rows)
            assert await store.mark_lagging(connection, ("i2",)) == 2
            assert await store.mark_lagging(connection, ("i2",)) == 0
            await store.settle(connection, "dep_1")
            assert await store.mark_lagging(connection, ("i2",)) == 1
    finally:
        await database.close()


async def test_what_is_lost_or_to_be_removed_holds_up_no_rotation(database_url: str) -> None:
    upgrade(database_url, "webhost_deployer")
    database = Database(database_url)
    try:
        async with database.transaction() as connection:
            rows = [row("dep_1", "i1", scriptLost=True), row("dep_2", "i1", tearDownAtMs=1)]
            await connection.execute(sa.insert(deployments), rows)
            assert await store.count_lagging(connection, ("i2",)) == 0
            assert await store.mark_lagging(connection, ("i2",)) == 0
    finally:
        await database.close()
