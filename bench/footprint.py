"""What a call and an agent leave behind, and what they cost: bytes of WAL, streams and rows,
memory, commits, processor time. `bench/scale/measured.toml` and docs/scale.md are made of it.

A figure's limit is the same thing in the other of two sizes: calls one at a time, few agents.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import psycopg
from nats.js.errors import NotFoundError
from webhost_contracts import subjects
from webhost_kit.bus.connection import connect

from bench import fold, load, upstreams, usage_stream, ways
from bench.gateways import Gateway, gateway, issuer
from bench.harness import Figure, run
from bench.options import Options
from bench.report import progress
from bench.servers import Infrastructure, processor_s, resident_mb, service
from bench.ways import Seen, Way

FEW = 10
MANY = 20_000
MANY_IN_FULL = 100_000
MANY_IN_SHORT = 1_000
FOLDED_CALLS = 100_000
FOLDED_CALLS_IN_SHORT = 4_000
CONNECTIONS = (1, 32, 64)
WARM_UP_S = 2
COUNTED_S = 1.5
"""By then a backend has reported its commits."""
SMALLEST = 20
"""Bytes a call: what is less is an empty table, or one that does not grow with calls."""
TABLE = "What a call leaves behind"

NOTES = [
    "footprint: bytes of a table are those of its rows, its indexes and the room left for updates;"
    " WAL is that of the whole Postgres, which does nothing else meanwhile. No checkpoint falls"
    " into a run: later ones add images of whole pages, a page at most once for each checkpoint.",
]


@dataclass(frozen=True)
class Left:
    """What is there: bytes of WAL and of tables, commits, bytes and messages of a stream."""

    wal: int
    commits: int
    tables: dict[str, int]
    stream_bytes: int
    messages: int


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return what calls, agents and facts leave behind."""
    short = options.short
    many = MANY_IN_FULL if options.full else MANY_IN_SHORT if short else MANY
    calls = FOLDED_CALLS_IN_SHORT if short else FOLDED_CALLS
    with ExitStack() as stack:
        worker = stack.enter_context(upstreams.worker(infrastructure.directory))
        identity = stack.enter_context(issuer(infrastructure.directory))

        def started(account: str, agents: int, users: int) -> Gateway:
            progress(f"footprint: starting a gateway with {agents:,} agents of {users:,} users")
            return stack.enter_context(
                gateway(infrastructure, account, identity, worker.port, agents, users=users)
            )

        few = started("few", FEW, FEW)
        figures = _calls(infrastructure, few, worker.pid, options)
        one = started("users", FEW, 1)
        figures += _one_user(infrastructure, few, one, worker.pid, options)
        figures += _agents(infrastructure, few, lambda: started("many", many, many // 10), many)
    spread = (many // 10, many)
    return [*figures, *_facts(infrastructure, calls, spread)]


def _calls(
    infrastructure: Infrastructure, subject: Gateway, worker_pid: int, options: Options
) -> list[Figure]:
    way = _way(infrastructure, subject, worker_pid)
    ways.run(way, 32, WARM_UP_S)
    seen: dict[int, Seen] = {}
    left: dict[int, dict[str, float]] = {}
    for connections in CONNECTIONS:
        progress(f"footprint: calls at {connections} connections")
        before = _left(infrastructure, subject.nats_url, subject.dsn)
        seen[connections] = ways.run(way, connections, options.seconds)
        after = _left(infrastructure, subject.nats_url, subject.dsn)
        left[connections] = _each(before, after, seen[connections].load.requests)
    seen_of = {connections: _seen(one) for connections, one in seen.items()}
    figures = [
        Figure(
            name=f"calls at {connections} connections: {name}",
            unit=unit,
            path=way.path,
            limit_path="one at a time",
            measured=[value],
            limit=[seen_of[1][name, unit]],
            table=TABLE,
        )
        for connections in CONNECTIONS
        for (name, unit), value in seen_of[connections].items()
    ]
    return figures + [
        _figure(f"a call at {connections} connections: {name}", value, left[1].get(name, 0.0))
        for connections in CONNECTIONS
        for name, value in left[connections].items()
    ]


def _seen(seen: Seen) -> dict[tuple[str, str], float]:
    processes = {(name, "µs"): used_us for name, used_us in seen.cpu_us.items()}
    return {
        ("throughput", "/s"): seen.load.per_second,
        ("p50", "ms"): seen.load.p50_ms,
        **processes,
    }


def _one_user(
    infrastructure: Infrastructure,
    few: Gateway,
    one: Gateway,
    worker_pid: int,
    options: Options,
) -> list[Figure]:
    """All calls are one user's: each statement waits for the row that the one before it locked."""
    rates = {
        name: ways.run(_way(infrastructure, subject, worker_pid), 64, options.seconds)
        for name, subject in (("many", few), ("one", one))
    }
    return [
        Figure(
            name="calls of one user at 64 connections",
            unit="/s",
            path="wrk > gateway > workerd",
            limit_path=f"of {FEW} users",
            measured=[rates["one"].load.per_second],
            limit=[rates["many"].load.per_second],
            table=TABLE,
        )
    ]


def _agents(
    infrastructure: Infrastructure, few: Gateway, start: Callable[[], Gateway], many: int
) -> list[Figure]:
    """Start a gateway that knows many agents, and see what they take."""
    nats_mb = resident_mb(infrastructure.nats_pid)
    subject = start()
    grown = resident_mb(infrastructure.nats_pid) - nats_mb
    events, messages = asyncio.run(_stream(subject.nats_url, subjects.EVENTS))
    own = resident_mb(subject.pid) - resident_mb(few.pid)
    tables = {
        name: size for name, size in _tables(subject.dsn).items() if name.startswith("routed_")
    }
    figures = {
        "NATS, resident": grown * 1e6 / many,
        "gateway, resident": own * 1e6 / many,
        "EVENTS, bytes": events / many,
        "EVENTS, messages": messages / many,
        "gateway's rows": sum(tables.values()) / many,
    }
    return [
        _figure(f"an agent, of {many:,}: {name}", value, value) for name, value in figures.items()
    ]


def _facts(infrastructure: Infrastructure, calls: int, spread: tuple[int, int]) -> list[Figure]:
    figures: dict[str, dict[str, float]] = {}
    for account, users, agents in (
        ("fold", usage_stream.USERS, usage_stream.AGENTS),
        ("ingest", *spread),
    ):
        progress(f"footprint: folding {2 * calls:,} facts of {agents:,} agents, {users:,} users")
        figures[account] = _folded(infrastructure, account, calls, users, agents)
    narrow, wide = figures.values()
    return [
        _figure(f"a call at billing, {agents:,} agents: {name}", value, narrow.get(name, 0.0))
        for agents, found in ((usage_stream.AGENTS, narrow), (spread[1], wide))
        for name, value in found.items()
    ]


def _folded(
    infrastructure: Infrastructure, account: str, calls: int, users: int, agents: int
) -> dict[str, float]:
    nats_url = infrastructure.nats_url(account)
    dsn = infrastructure.new_database(f"billing_{account}")
    seeded = run(
        usage_stream.seed(nats_url, calls, usage_stream.Seeded(), users=users, agents=agents)
    )
    before = _left(infrastructure, nats_url, None)
    postgres_s = processor_s(infrastructure.postgres_pid)
    directory = infrastructure.directory / f"billing-{account}"
    directory.mkdir()
    with service("webhost_billing", directory, nats_url, dsn, {}, until="/livez") as pid:
        start_s = processor_s(pid)
        rate = fold.watch_fold(dsn, seeded)
        used = {
            "facts folded a second": rate,
            "billing, µs": (processor_s(pid) - start_s) / calls * 1e6,
            "Postgres, µs": (processor_s(infrastructure.postgres_pid) - postgres_s) / calls * 1e6,
        }
        after = _left(infrastructure, nats_url, dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM usage_series").fetchone()
    rows = int(row[0]) if row else 0
    series = {"usage_series, rows": rows / calls}
    if rows:
        series["usage_series, bytes a row"] = after.tables["usage_series"] / rows
    stream = {"USAGE, bytes": before.stream_bytes / calls}
    return used | stream | series | _each(before, after, calls)


def _each(before: Left, after: Left, calls: int) -> dict[str, float]:
    grown = {
        f"{name}, bytes": (size - before.tables.get(name, 0)) / calls
        for name, size in after.tables.items()
    }
    figures = {
        "WAL, bytes": (after.wal - before.wal) / calls,
        "commits": (after.commits - before.commits) / calls,
        "USAGE, bytes": (after.stream_bytes - before.stream_bytes) / calls,
        "USAGE, messages": (after.messages - before.messages) / calls,
    }
    return figures | {name: value for name, value in grown.items() if value >= SMALLEST}


def _left(infrastructure: Infrastructure, nats_url: str, dsn: str | None) -> Left:
    time.sleep(COUNTED_S)
    with psycopg.connect(infrastructure.cluster.dsn(), autocommit=True) as connection:
        row = connection.execute(
            "SELECT pg_current_wal_lsn() - '0/0', (SELECT sum(xact_commit) FROM pg_stat_database)"
        ).fetchone()
    assert row is not None
    tables = {} if dsn is None else _tables(dsn)
    stream_bytes, messages = asyncio.run(_stream(nats_url, subjects.USAGE))
    return Left(int(row[0]), int(row[1]), tables, stream_bytes, messages)


def _tables(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
    return {str(name): int(size) for name, size in rows}


async def _stream(nats_url: str, name: str) -> tuple[int, int]:
    """Return the bytes and messages of a stream."""
    bus = await connect(nats_url, "bench")
    try:
        with suppress(NotFoundError):
            state = (await bus.js.stream_info(name)).state
            return state.bytes, state.messages
        return 0, 0
    finally:
        await bus.close()


def _way(infrastructure: Infrastructure, subject: Gateway, worker_pid: int) -> Way:
    file = load.write_requests(
        infrastructure.directory / f"footprint-{subject.port}.requests", subject.calls()
    )
    return ways.through(infrastructure, subject, file, {"workerd": worker_pid})


def _figure(name: str, value: float, limit: float) -> Figure:
    return Figure(
        name=name,
        unit="",
        path="what is there afterwards",
        limit_path="the other size",
        measured=[value],
        limit=[limit or value],
        table=TABLE,
    )
