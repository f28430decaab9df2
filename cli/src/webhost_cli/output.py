"""How results look: JSON as the API gave it, or tables and plain lines for people.

All that a command shows passes here: nothing of it is obeyed by the terminal (see
`webhost_local.terminal`).
"""

import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from webhost_local.terminal import plain, plain_json, plain_line

_PIPE_WIDTH = 240


def console() -> Console:
    """Standard output. Nothing is cut to fit when it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def errors() -> Console:
    """Standard error, for progress and side information."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print the value with every field of its messages, also those that are empty."""
    typer.echo(plain_json(msgspec.json.format(msgspec.json.encode(whole(value))).decode()))


def say(text: str = "", *, ends_line: bool = True) -> None:
    """Print text on standard output, at once."""
    typer.echo(plain(text), nl=ends_line)


def aside(text: str, *, style: str | None = "dim") -> None:
    """Print progress or side information on standard error."""
    errors().print(plain(text), style=style, markup=False, soft_wrap=True)


def whole(value: Any) -> Any:
    """The value with every field of its messages, as plain JSON types.

    Messages leave defaults out on the bus; a program that reads us should not need to know them.
    """
    match value:
        case msgspec.Struct():
            fields = msgspec.structs.fields(value)
            return {field.encode_name: whole(getattr(value, field.name)) for field in fields}
        case dict():
            return {key: whole(inner) for key, inner in cast(dict[Any, Any], value).items()}
        case list() | tuple():
            return [whole(inner) for inner in cast(list[Any], value)]
        case _:
            return value


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Collection[str] = ()
) -> None:
    """A table without lines; None is shown as nothing. `numbers` are the columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        justify = "right" if column in numbers else "left"
        table.add_column(column, overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*(Text("" if cell is None else plain_line(str(cell))) for cell in row))
    console().print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One `name  value` line per field that has a value."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            table.add_row(name, Text(plain(str(value))))
    console().print(table)


def when(at_ms: int | None) -> str | None:
    """Unix milliseconds as local time, to the second."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def print_more(page: dict[str, Any]) -> None:
    """Say how to see the rest of a list, if there is any."""
    if page["nextCursor"] is not None:
        aside(f"more: --cursor {page['nextCursor']}")
