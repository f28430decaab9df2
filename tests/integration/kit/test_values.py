"""No parameter of a statement reaches a log, whatever goes wrong with it."""

import io
import json
import logging
from collections.abc import Iterator

import psycopg
import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from webhost_kit.database.engine import Database, is_unique_violation
from webhost_kit.database.statements import Statements
from webhost_kit.errors import Unavailable
from webhost_kit.process import observability

SECRET = "s3cr3t\nof a user's"
TABLE = """
    CREATE TABLE kept (
        name text PRIMARY KEY, number int NOT NULL CHECK (number > 0), other text REFERENCES kept
    )
"""
WRONG = {
    "unique": "INSERT INTO kept VALUES (:name, 1)",
    "not null": "INSERT INTO kept VALUES (:name || 'x', NULL)",
    "check": "INSERT INTO kept VALUES (:name || 'x', -1)",
    "foreign key": "INSERT INTO kept VALUES ('x', 1, :name || 'x')",
    "unreadable": "SELECT CAST(:name AS int)",
    "json": "SELECT CAST(:name AS jsonb)",
    "syntax": "SELECT FROM WHERE :name",
    "too long": "SELECT CAST(:name AS bit(1))",
}


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the service logs, as it is written."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    before, handlers = structlog.get_config(), logging.getLogger().handlers
    observability.configure_logging("test", log_format="json", level="info")
    structlog.configure(cache_logger_on_first_use=False)
    yield written
    structlog.configure(**before)
    logging.getLogger().handlers = handlers


@pytest.fixture
def dsn(database_url: str) -> str:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO kept VALUES (%s, 1)", (SECRET,))
    return database_url


@pytest.mark.accept("6.D4")
@pytest.mark.parametrize("wrong", WRONG)
async def test_an_error_of_the_database_says_no_values(
    dsn: str, wrong: str, logged: io.StringIO
) -> None:
    database = Database(dsn)
    log = structlog.get_logger("test")
    with pytest.raises(DBAPIError) as raised:
        async with database.transaction() as connection:
            await connection.execute(text(WRONG[wrong]), {"name": SECRET})
    error = raised.value
    try:
        raise RuntimeError("something failed") from error
    except RuntimeError:
        log.exception("failed", error=str(error), cause=repr(error.orig))
        logging.getLogger("library").exception("failed")
    await database.close()
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["failed", "failed"]
    assert type(error.orig).__name__ in lines[0]["exception"]
    assert "s3cr3t" not in logged.getvalue()
    assert "of a user" not in logged.getvalue()
    # What it is stays known.
    assert isinstance(error, IntegrityError) == (wrong in list(WRONG)[:4])
    if isinstance(error, IntegrityError):
        assert is_unique_violation(error) == (wrong == "unique")


@pytest.mark.accept("6.D4")
@pytest.mark.parametrize("wrong", ["unique", "unreadable"])
async def test_a_batched_statement_logs_no_values(
    dsn: str, wrong: str, logged: io.StringIO
) -> None:
    statements = Statements(dsn, "test")
    query = WRONG[wrong].replace(":name", "%(name)s")
    try:
        await statements.execute((query, {"name": SECRET}))
    except Unavailable:
        structlog.get_logger("test").exception("failed")
    await statements.close()
    # A key that is taken is an answer, and no failure.
    assert ("statement not carried out" in logged.getvalue()) == (wrong != "unique")
    assert "failed" in logged.getvalue()
    assert "s3cr3t" not in logged.getvalue()
    assert "of a user" not in logged.getvalue()
