"""How results look: JSON as the API gave it, or tables and plain lines for people.

All that a command shows passes here: nothing of it is obeyed by the terminal (see
`webhost_local.terminal`).
"""

import sys
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from webhost_local.terminal import plain, plain_json, plain_line

from webhost_cli.errors import CommandError

_PICODOLLARS = 10**12
_PIPE_WIDTH = 1_000_000
_GAP = 2
_LEAST_FOLDED = 20
"""Where all other columns leave less, the terminal breaks the lines."""
STANDARD_OUTPUT = "standard output"


def console(least: int = 0) -> Console:
    """Standard output, at least this wide. Nothing is broken to fit where it is no terminal."""
    found = Console(highlight=False)
    width = max(found.width, least) if sys.stdout.isatty() else _PIPE_WIDTH
    # With a height as well: a dumb terminal would have 80 columns otherwise.
    return Console(width=width, height=found.height, highlight=False)


def errors() -> Console:
    """Standard error, for progress and side information."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print the value with every field of its messages, also those that are empty."""
    _echo(plain_json(msgspec.json.format(msgspec.json.encode(whole(value))).decode()))


def say(text: str = "", *, ends_line: bool = True) -> None:
    """Print text on standard output, at once."""
    _echo(plain(text), ends_line=ends_line)


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
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Collection[str] = (),
    folds: str | None = None,
) -> None:
    """A table without lines; None is shown as nothing. `numbers` are the columns of numbers.

    Where a terminal is too narrow, one column is broken into lines: the last, or the one that
    `folds`. All others stay whole, so that an id can be copied.
    """
    shown = [["" if cell is None else plain_line(str(cell)) for cell in row] for row in rows]
    folding = columns[-1] if folds is None else folds
    table = Table(box=None, pad_edge=False, header_style="dim")
    least = _GAP * (len(columns) - 1)
    for at, column in enumerate(columns):
        width = max(cell_len(text) for text in (column, *(row[at] for row in shown)))
        firm = min(width, _LEAST_FOLDED) if column == folding else width
        least += firm
        table.add_column(
            column,
            overflow="fold",
            justify="right" if column in numbers else "left",
            no_wrap=column != folding,
            min_width=firm,
        )
    for row in shown:
        table.add_row(*(Text(cell) for cell in row))
    _print(table, console(least))


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """One `name  value` line per field that has a value."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            table.add_row(name, Text(plain(str(value))))
    _print(table, console())


def _print(table: Table, out: Console) -> None:
    if sys.stdout.isatty():
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        _echo(line.rstrip())


def _echo(text: str, *, ends_line: bool = True) -> None:
    with writing(STANDARD_OUTPUT):
        typer.echo(text, nl=ends_line)


@contextmanager
def writing(where: object) -> Generator[None]:
    """Raise CommandError for what cannot be written there; a reader that went away stays one."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"cannot write to {where}: {error.strerror}") from error


def when(at_ms: int | None) -> str | None:
    """Unix milliseconds as local time, to the second."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def dollars(picodollars: int, thousands: str = "") -> str:
    """An amount in USD, exactly, with twelve places; `thousands` is what separates them."""
    whole_dollars, rest = divmod(abs(picodollars), _PICODOLLARS)
    return f"{'-' if picodollars < 0 else ''}{whole_dollars:{thousands}}.{rest:012d}"


def print_more(page: dict[str, Any]) -> None:
    """Say how to see the rest of a list, if there is any."""
    if page["nextCursor"] is not None:
        aside(f"more: --cursor {page['nextCursor']}")
