"""Rows passed to a statement arrive as they were, whatever texts and numbers they hold."""

import pytest
import sqlalchemy as sa
from webhost_kit.database.engine import sqlalchemy_url
from webhost_kit.database.rows import Rows

TABLE = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("key", sa.LargeBinary),
    sa.Column("name", sa.Text),
    sa.Column("count", sa.BigInteger),
    sa.Column("cost", sa.Numeric),
)
ROWS = Rows(*TABLE.columns)
CONTROL = "".join(map(chr, range(1, 0x20)))
TEXTS = [
    *("", " ", "null", "NULL", "None", "{}", "{a,b}", "[", "a,b", '"', '""', "'", ":name", "%s"),
    *("\\", "\\\\", "\\n", "\\u0041", "\\x41", 'a\\"b', "a\nb", "\\\n", CONTROL, "\x7f\x80"),
    *("é", "\N{SNOWMAN}", "\N{PILE OF POO}", "\N{REPLACEMENT CHARACTER}", "x" * 10_000),
]


@pytest.mark.parametrize("texts", [TEXTS, [None], [None, "a", None], []])
def test_rows_arrive_as_they_were(database_url: str, texts: list[str | None]) -> None:
    rows = [
        (None if text is None else text.encode(), text, None if text is None else number, cost)
        for number, (text, cost) in enumerate(
            zip(texts, [0, -1, 2**63, -(2**63), 10**40] * len(texts), strict=False)
        )
    ]
    engine = sa.create_engine(sqlalchemy_url(database_url))
    with engine.begin() as connection:
        found = connection.execute(
            sa.text(f"SELECT {ROWS.names} FROM {ROWS.sql}"),
            ROWS.parameters(rows),
        )
        arrived = [(row.key, row.name, row.count, row.cost) for row in found]
    engine.dispose()
    assert arrived == rows


def test_a_row_that_lacks_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ROWS.parameters([(b"", "a", 1, 2), (b"", "a", 1)])
    with pytest.raises(ValueError, match="zip"):
        ROWS.parameters([(b"", "a", 1)])
