"""Rows for one statement, passed as one array for each column.

They cost Postgres half of what rows of JSON do, and are written in less time too.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

_DIALECT: Any = postgresql.dialect()  # pyright: ignore[reportUnknownMemberType]
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|(.))")
_CONTROL = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Rows:
    """Rows of some columns: `sql` is what a statement selects from, under the columns' names."""

    def __init__(self, *columns: sa.Column[Any]) -> None:
        self.names = ", ".join(column.name for column in columns)
        arrays = ", ".join(f"CAST(:rows_{one.name} AS {_type(one)}[])" for one in columns)
        self.sql = f"unnest({arrays}) AS passed ({self.names})"
        self._arrays = [(f"rows_{one.name}", _writer(one)) for one in columns]

    def parameters(self, rows: Iterable[Sequence[Any]]) -> dict[str, str]:
        """Return the statement's parameters, of rows whose values are in the columns' order."""
        columns = list(zip(*rows, strict=True)) or [()] * len(self._arrays)
        return {
            name: write(values) for (name, write), values in zip(self._arrays, columns, strict=True)
        }


def _type(column: sa.Column[Any]) -> str:
    return column.type.compile(_DIALECT)


def _writer(column: sa.Column[Any]) -> Callable[[Sequence[Any]], str]:
    if isinstance(column.type, sa.LargeBinary):
        return of_bytes
    return _of_texts if isinstance(column.type, sa.Text) else _of_numbers


def _of_numbers(values: Sequence[int | None]) -> str:
    return "{" + ",".join(map(str, values)).replace("None", "NULL") + "}"


def of_bytes(values: Iterable[bytes | None]) -> str:
    """Return an array of bytes: the driver takes five times as long for a list of them."""
    return "{" + ",".join("NULL" if v is None else rf'"\\x{v.hex()}"' for v in values) + "}"


def _of_texts(values: Sequence[str | None]) -> str:
    """Return the JSON array as one of Postgres: both escape with a backslash, which stands for no
    more than the next character there.
    """
    array = msgspec.json.encode(values).decode()
    if "\\" in array:
        array = _ESCAPE.sub(_unescaped, array)
    return "{" + array[1:-1] + "}"


def _unescaped(escape: re.Match[str]) -> str:
    code, character = escape.groups()
    return chr(int(code, 16)) if code else _CONTROL.get(character, escape[0])
