"""A server that is read-only, full or stopping is away: nothing ends, and nothing is done twice."""

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from webhost_contracts import subjects
from webhost_kit.database.away import is_away, is_conflict
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.relay import Relay

from tests.integration.kit.test_outbox_to_projection import create, projector
from tests.support.deadline import eventually
from tests.support.harness import Harness, in_background


@pytest.mark.accept("A5")
@pytest.mark.parametrize(
    ("error", "away"),
    [
        (errors.ConnectionFailure(), True),
        (errors.ReadOnlySqlTransaction(), True),
        (errors.DiskFull(), True),
        (errors.TooManyConnections(), True),
        (errors.QueryCanceled(), True),
        (errors.AdminShutdown(), True),
        (errors.IdleSessionTimeout(), True),
        (errors.IdleInTransactionSessionTimeout(), True),
        (errors.IoError(), True),
        (psycopg.OperationalError("no connection"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (TimeoutError(), True),
        (ConnectionRefusedError(), True),
        (errors.UniqueViolation(), False),
        (errors.UndefinedTable(), False),
        (errors.InsufficientPrivilege(), False),
        (errors.DeadlockDetected(), False),
        (errors.InFailedSqlTransaction(), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_away_is_told_by_sqlstate(error: Exception, away: bool) -> None:
    assert is_away(error) is away


def test_a_wrapped_error_is_told_by_what_it_wraps() -> None:
    assert is_away(IntegrityError("", {}, errors.DiskFull()))
    assert not is_away(IntegrityError("", {}, errors.UniqueViolation()))
    assert is_conflict(errors.DeadlockDetected())


def set_read_only(dsn: str, read_only: bool) -> None:
    """Make the database read-only for new connections, and end the existing ones."""
    name = dsn.rpartition("/")[2]
    with psycopg.connect(
        dsn, autocommit=True, options="-c default_transaction_read_only=off"
    ) as connection:
        connection.execute(
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = {read_only}'.encode()
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_backend_pid()",
            (name,),
        )


@pytest.mark.accept("A5")
async def test_a_read_only_server_makes_us_unready_and_never_wrong(harness: Harness) -> None:
    relay, names = Relay(harness.dsn, harness.bus), projector(harness)
    async with in_background(relay.run(), names.run(), harness.database.run(every_s=0.1)):
        await create(harness, "agt_1", "one")

        async def folded(expected: int = 1) -> bool:
            return await harness.scalar("SELECT count(*) FROM names") == expected

        await eventually(folded, "the first fold")
        # Something waits in the outbox, so that the relay has work when it cannot delete.
        set_read_only(harness.dsn, True)
        try:

            async def unready() -> bool:
                return harness.database.check() is not None

            await eventually(unready, "the database to be unready")
            with pytest.raises(Unavailable):
                await create(harness, "agt_2", "two")
        finally:
            set_read_only(harness.dsn, False)

        async def ready() -> bool:
            checks = (harness.database.check(), relay.check(), names.check())
            return checks == (None, None, None)

        await eventually(ready, "readiness to come back", seconds=20)

        async def works() -> bool:
            try:
                await create(harness, "agt_3", "three")
            except Unavailable:
                return False
            return True

        await eventually(works, "writes to work again")

        async def both() -> bool:
            return await harness.scalar("SELECT count(*) FROM names") == 2

        await eventually(both, "the fold to go on", seconds=20)
    async with harness.database.transaction() as connection:
        assert (await connection.execute(text("SELECT sum(seen) FROM names"))).scalar() == 2
    assert (await harness.bus.js.stream_info(subjects.EVENTS)).state.messages == 2
