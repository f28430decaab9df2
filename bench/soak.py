"""The gateway for ten minutes at half of what it can do: what grows, and what slows down."""

from contextlib import ExitStack
from functools import partial
from statistics import mean

import psycopg

from bench import load, upstreams, ways
from bench.gateways import gateway, issuer
from bench.harness import Aim, Figure
from bench.options import Options
from bench.report import progress
from bench.sampling import sampled
from bench.servers import Infrastructure, resident_mb
from bench.ways import Seen

AGENTS = 10
CONNECTIONS = 32
WARM_UP_S = 5
FULL_S = 600
SHORT_S = 60
SIZES_TABLE = "The gateway's tables and indexes in Postgres, at the end and at the beginning"
PAGE_KB = 8.0
SIZES = """
SELECT relname, pg_table_size(oid) / 1024.0 FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') ORDER BY relname
"""

NOTES = [
    "soak: the first part is compared with the last, of ten minutes a minute each, with --full; in"
    " a minute six seconds each, which says little. An empty table counts as one page.",
]


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return the last part's throughput and memory against the first's, and what was stored."""
    directory = infrastructure.directory
    seconds = FULL_S if options.full else SHORT_S
    with ExitStack() as stack:
        worker = stack.enter_context(upstreams.worker(directory))
        identity = stack.enter_context(issuer(directory))
        subject = stack.enter_context(gateway(infrastructure, "few", identity, worker.port, AGENTS))
        calls = load.write_requests(directory / "soak.requests", subject.calls())
        way = ways.through(infrastructure, subject, calls, {"workerd": worker.pid})
        rate = ways.run(way, CONNECTIONS, WARM_UP_S).load.per_second / 2
        progress(f"soak: {rate:,.0f} calls/s for {seconds} s")
        before = _sizes(subject.dsn)
        with sampled(1.0, partial(resident_mb, subject.pid)) as resident:
            seen = ways.paced(way, rate, seconds)
        after = _sizes(subject.dsn)
    path = f"{rate:,.0f} calls/s at an even pace for {seconds} s > gateway > workerd"
    return [*_endurance(seen, resident, path, seconds // 10), *_stored(before, after, path)]


def _endurance(seen: Seen, resident: list[float], path: str, part: int) -> list[Figure]:
    answered = seen.load.by_second
    return [
        Figure(
            name="soak: throughput at the end",
            unit="/s",
            path=path,
            limit_path=f"the last {part} s against the first",
            measured=[mean(answered[-part:])],
            limit=[mean(answered[:part])],
            aim=Aim("at least", 0.95),
        ),
        Figure(
            name="soak: gateway's memory at the end",
            unit="MB",
            path=path,
            limit_path=f"resident, the last {part} s against the first",
            measured=[mean(resident[-part:])],
            limit=[mean(resident[:part])],
            aim=Aim("at most", 1.1),
        ),
        Figure(
            name="soak: oldest unpublished fact",
            unit="s",
            path="the age of the outbox's oldest row, ten times a second, at most",
            limit_path="the length of the run",
            measured=[max(seen.oldest_s)],
            limit=[seen.load.seconds],
            reading="measured",
            aim=Aim("at most", 2),
        ),
        Figure(
            name="soak: p99",
            unit="ms",
            path=path,
            limit_path="p50",
            measured=[seen.load.p99_ms],
            limit=[seen.load.p50_ms],
        ),
        *ways.cpu_figures("soak", path, [seen]),
    ]


def _stored(before: dict[str, float], after: dict[str, float], path: str) -> list[Figure]:
    return [
        Figure(
            name=name,
            unit="kB",
            path=path,
            limit_path="at the beginning",
            measured=[max(size, PAGE_KB)],
            limit=[max(before.get(name, 0.0), PAGE_KB)],
            table=SIZES_TABLE,
        )
        for name, size in after.items()
    ]


def _sizes(dsn: str) -> dict[str, float]:
    with psycopg.connect(dsn) as connection:
        return {name: float(size) for name, size in connection.execute(SIZES)}
