"""The newest events of a user are found without a look at all of them, whatever is asked for."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from webhost_billing.queries import newest_events
from webhost_billing.tables import generations, metadata, usage_events
from webhost_contracts.usage_rpc import RecentEventsRequest
from webhost_kit.database.engine import sqlalchemy_url

ROWS = 20_000
RARE = 7
LIMIT = 20


@pytest.fixture
def connection(database_url: str) -> Iterator[sa.Connection]:
    """A user's many events: few with errors, and few of one agent, all of them old."""
    given = {
        "generation": "1",
        "user_id": "'usr_a'",
        "agent_id": f"CASE WHEN n <= {RARE} THEN 'agt_rare' ELSE 'agt_' || n % 50 END",
        "at_ms": "n",
        "errors": f"CASE WHEN n <= {RARE} THEN 1 ELSE 0 END",
        "key": "int4send(n)",
    }
    values = ", ".join(given.get(column.name, value(column)) for column in usage_events.columns)
    engine = sa.create_engine(sqlalchemy_url(database_url))
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(sa.insert(generations).values(scope="all", live=1, newest=1))
        connection.execute(
            sa.text(f"INSERT INTO usage_events SELECT {values} FROM generate_series(1, {ROWS}) n")
        )
        connection.execute(sa.text("ANALYZE usage_events"))
        yield connection
    engine.dispose()


def value(column: sa.Column[Any]) -> str:
    return "NULL" if column.nullable else "'x'" if isinstance(column.type, sa.Text) else "1"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, LIMIT),
        ({"errors_only": True}, RARE),
        ({"agent_id": "agt_rare"}, RARE),
        ({"agent_id": "agt_1"}, LIMIT),
        ({"agent_id": "agt_rare", "errors_only": True}, RARE),
        ({"agent_id": "agt_1", "errors_only": True}, 0),
    ],
)
def test_few_rows_are_looked_at(
    connection: sa.Connection, asked: dict[str, Any], found: int
) -> None:
    request = RecentEventsRequest(user_id="usr_a", since_ms=0, limit=LIMIT, **asked)
    query = newest_events(request)
    assert len(connection.execute(query).all()) == found
    compiled = query.compile(
        dialect=postgresql.dialect(),  # pyright: ignore[reportUnknownMemberType]
        compile_kwargs={"literal_binds": True},
    )
    [plan] = connection.scalar(sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}"))
    assert most_rows(plan["Plan"]) <= 10 * LIMIT


def most_rows(node: dict[str, Any]) -> int:
    """Return the most rows that one step of a plan looks at."""
    removed = (count for name, count in node.items() if name.startswith("Rows Removed by "))
    looked_at = (node["Actual Rows"] + sum(removed)) * node["Actual Loops"]
    return max([looked_at, *map(most_rows, node.get("Plans", ()))])
