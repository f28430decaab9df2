"""The statements of a rebuild look at each row a few times, whatever Postgres knows of the rows."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from webhost_billing.rebuild import statements
from webhost_billing.rebuild.scope import FOR_EVER_MS, Scope
from webhost_billing.statements import FOLDED
from webhost_billing.tables import generations, metadata, partition_seals, sealed_usage
from webhost_kit.database.engine import sqlalchemy_url

ROWS = 400
PERIOD = "2026-01"
LIVE, NEW = 1, 2


@pytest.fixture(params=[True, False], ids=["statistics of the live generation", "no statistics"])
def connection(request: pytest.FixtureRequest, database_url: str) -> Iterator[sa.Connection]:
    """A live generation and a new one, with what Postgres may know of them during a rebuild.

    How many rows it expects decides between a join by hash and a loop; here it is always a loop.
    """
    engine = sa.create_engine(sqlalchemy_url(database_url))
    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(sa.insert(generations).values(scope="all", live=LIVE, newest=NEW))
        closed = {"through": PERIOD, "sequence": 1, "stream_created_at": "", "applied": True}
        connection.execute(
            sa.insert(partition_seals), [{"partition": n, **closed} for n in range(16)]
        )
        for table in (*FOLDED, sealed_usage):
            fill(connection, table, LIVE)
            if request.param:
                connection.execute(sa.text(f"ANALYZE {table.name}"))
        for table in FOLDED:
            fill(connection, table, NEW)
        for join in ("hashjoin", "mergejoin"):
            connection.execute(sa.text(f"SET LOCAL enable_{join} = off"))
        yield connection
    engine.dispose()


def fill(connection: sa.Connection, table: sa.Table, generation: int) -> None:
    values = ", ".join(value(column, generation) for column in table.columns)
    connection.execute(
        sa.text(f"INSERT INTO {table.name} SELECT {values} FROM generate_series(1, {ROWS}) n")
    )


def value(column: sa.Column[Any], generation: int) -> str:
    """No value but those of the keys is the same in two generations."""
    match column.name, column.type:
        case "generation", _:
            return str(generation)
        case "partition", _:
            return "n % 16"
        case (("period_key" | "charged_period"), _):
            return f"'{PERIOD}'"
        case "bucket", _:
            return "'day'"
        case _, sa.Text():
            return "'text ' || n"
        case _, sa.LargeBinary():
            return "int4send(n)"
        case _:
            return "n" if column.primary_key else f"n + {generation}"


def rows_looked_at(connection: sa.Connection, statement: sa.TextClause, **parameters: Any) -> int:
    explained = sa.text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}")
    plan = connection.scalar(explained, parameters)

    def rows(node: dict[str, Any]) -> int:
        looked_at = node["Actual Rows"] + sum(
            count for name, count in node.items() if name.startswith("Rows Removed by ")
        )
        return looked_at * node["Actual Loops"] + sum(map(rows, node.get("Plans", ())))

    return rows(plan[0]["Plan"])


def test_no_statement_compares_every_row_with_every_other(connection: sa.Connection) -> None:
    known = Scope().parameters() | {"carried": "", "carried_end": 0, "live": LIVE, "new": NEW}
    known |= {"closed": "", "above": "", "upto": "9999-12", "generation": NEW, "most": 10 * ROWS}
    known |= {"from_ms": 0, "until_ms": FOR_EVER_MS, "minutes": 0, "hours": 0}
    every_key = connection.scalars(sa.text("SELECT DISTINCT key FROM invocations")).all()
    keys = {
        name: connection.execute(statement, known).one().keys
        for name, statement in statements.CHANGED_KEYS.items()
    }
    passed = {"keys": keys["invocations"], "period": "another"}
    cases: dict[str, tuple[sa.TextClause, dict[str, Any]]] = {
        "unlike seals": (statements.UNLIKE_SEALS, {}),
        "differences": (statements.DIFFERENCES, {}),
        "differences of series": (statements.SERIES_DIFFERENCES, {}),
        "missing": (statements.MISSING, {}),
        "still missing": (statements.STILL_MISSING, {"keys": every_key}),
        "moved": (statements.MOVED, passed),
    }
    for table, text in keys.items():
        cases[f"changed keys of {table}"] = (statements.CHANGED_KEYS[table], {})
        cases[f"drop changed {table}"] = (statements.DROP_CHANGED[table], {"keys": text})
        cases[f"put changed {table}"] = (statements.PUT_CHANGED[table], {"keys": text})
    cases["drop unlike seals"] = (statements.DROP_UNLIKE_SEALS, {})
    cases["put seals"] = (statements.PUT_SEALS, {})
    costs = {
        name: rows_looked_at(connection, statement, **known | more)
        for name, (statement, more) in cases.items()
    }
    assert min(costs.values()) >= ROWS
    assert {name: cost for name, cost in costs.items() if cost > 50 * ROWS} == {}
