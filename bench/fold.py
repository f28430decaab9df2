"""billing's fold and rebuild against the rate of merely reading the same stream."""

import asyncio
import itertools
import time
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import psycopg
from webhost_cli.rebuild import rebuild as ask_to_rebuild
from webhost_contracts import subjects
from webhost_contracts.usage_rpc import RebuildRequest
from webhost_kit.bus.connection import connect
from webhost_kit.bus.reader import StreamReader
from webhost_kit.tasks import cancel

from bench import seeding
from bench.harness import Aim, Figure, NotMeasured, interleave, run
from bench.options import Options
from bench.report import progress
from bench.sampling import sampled
from bench.servers import Infrastructure, resident_mb, service
from bench.usage_stream import AGENTS, USERS, Seeded, packets, seed

CALLS = 200_000
CALLS_IN_SHORT = 10_000
CALLS_IN_FULL = 500_000
ARRIVING_PER_S = 200
"""Facts that arrive while usage is rebuilt."""
FOLDED_S = 300.0
LOOK_EVERY_S = 0.05
FLAT = 1.2

NOTES = [
    "fold, rebuild: every call is on the stream twice, as the gateway's fact and as the Worker's"
    " report, in packets of 8 and 4; rates are of facts; the raw rate is that of the kit's"
    f" StreamReader, undecoded. {ARRIVING_PER_S} facts more arrive each second of a rebuild.",
    "billing's memory: that of all of its processes together while it rebuilds, looked at every"
    " 50 ms; the limit is a rebuild of a quarter of the stream.",
]


@dataclass
class Folded:
    """The rates of one run of billing on a new database, in facts per second."""

    fold: float
    rebuild: float = 0.0
    peak_mb: float = 0.0
    """While the rebuild ran."""
    held_back_ms: float = 0.0
    """How long the fold waited for the rebuilt rows to take the place of the live ones."""


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return the rates of fold and rebuild, the rebuild's memory, and what it holds up."""
    nats_url = infrastructure.nats_url("fold")
    calls = CALLS_IN_SHORT if options.short else CALLS_IN_FULL if options.full else CALLS
    numbers = itertools.count()

    def billing(seeded: Seeded) -> Folded:
        return _billing(infrastructure, f"billing_{next(numbers)}", seeded)

    progress(f"fold: putting {2 * calls:,} facts onto the stream, a quarter of them first")
    quarter = run(seed(nats_url, calls // 4, Seeded()))
    of_quarter = [billing(quarter) for _ in range(options.runs)]
    seeded = run(seed(nats_url, calls - calls // 4, quarter))
    runs = interleave(
        options.runs,
        {
            "raw": lambda: Folded(run(_read(nats_url, seeded))),
            "billing": lambda: billing(seeded),
        },
        lambda line: progress(f"fold, {line}"),
    )
    raw = [run.fold for run in runs["raw"]]
    limit_path = (
        f"NATS USAGE > StreamReader, {seeded.facts:,} facts in {seeded.messages:,} messages"
    )
    return [
        Figure(
            name="billing: fold",
            unit="/s",
            path="NATS USAGE > billing > Postgres, on disk",
            limit_path=limit_path,
            measured=[run.fold for run in runs["billing"]],
            limit=raw,
        ),
        Figure(
            name="billing: rebuild",
            unit="/s",
            path="NATS USAGE > billing > a new generation in Postgres, compared and swapped",
            limit_path=limit_path,
            measured=[run.rebuild for run in runs["billing"]],
            limit=raw,
            aim=Aim("at least", 0.7),
        ),
        Figure(
            name="billing: memory while it rebuilds",
            unit="MB",
            path=f"resident, at most, over {seeded.facts:,} facts",
            limit_path=f"over {quarter.facts:,} facts",
            measured=[run.peak_mb for run in runs["billing"]],
            limit=[run.peak_mb for run in of_quarter],
            # A trial is over before the buffers are full.
            aim=None if options.short else Aim("at most", FLAT),
        ),
        Figure(
            name="billing: fold held back by a rebuild",
            unit="ms",
            path=f"of {seeded.facts:,} facts, at its swap",
            limit_path=f"of {quarter.facts:,} facts",
            measured=[run.held_back_ms for run in runs["billing"]],
            limit=[run.held_back_ms for run in of_quarter],
            reading="measured",
            aim=Aim("at most", 1_000),
        ),
    ]


def _billing(infrastructure: Infrastructure, database: str, seeded: Seeded) -> Folded:
    nats_url = infrastructure.nats_url("fold")
    dsn = infrastructure.new_database(database)
    directory = infrastructure.directory
    with service("webhost_billing", directory, nats_url, dsn, {}, until="/livez") as pid:
        result = Folded(watch_fold(dsn, seeded))
        began = time.perf_counter()
        with sampled(LOOK_EVERY_S, partial(resident_mb, pid, family=True)) as seen:
            result.held_back_ms = run(_rebuild_while_facts_arrive(nats_url))
        if not seen:
            raise NotMeasured("the rebuild was over before its memory was seen")
        result.peak_mb = max(seen)
        result.rebuild = seeded.facts / (time.perf_counter() - began)
    return result


def watch_fold(dsn: str, seeded: Seeded) -> float:
    """Return facts per second from when the first are seen to be folded until all are."""
    began: tuple[float, int] | None = None
    deadline = time.monotonic() + FOLDED_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            now = time.perf_counter()
            found = dict(connection.execute("SELECT name, sequence FROM checkpoints").fetchall())
            if all(found.get(name, 0) >= last for name, last in seeded.last.items()):
                if began is None:
                    raise NotMeasured("the fold was over before it was seen")
                return (seeded.facts - began[1]) / (now - began[0])
            if began is None and any(found.values()):
                row = connection.execute(
                    "SELECT count(invocation_id) + count(event_id) FROM invocations"
                ).fetchone()
                began = (time.perf_counter(), int(row[0]) if row else 0)
            time.sleep(LOOK_EVERY_S)
    raise NotMeasured(f"billing did not fold {seeded.facts:,} facts in {FOLDED_S:g} s")


async def _rebuild_while_facts_arrive(nats_url: str) -> float:
    """Rebuild; return for how many ms the fold was held back."""
    arriving = asyncio.ensure_future(_arrive(nats_url))
    held_back_ms = await _rebuild(nats_url)
    if arriving.done():
        raise NotMeasured(f"no more facts arrived: {arriving.exception()!r}")
    await cancel(arriving)
    return held_back_ms


async def _rebuild(nats_url: str) -> float:
    bus = await connect(nats_url, "bench")
    result = await ask_to_rebuild(bus.client, RebuildRequest(), lambda _: None)
    await bus.close()
    if result.refused is not None or result.differences:
        raise NotMeasured(f"rebuild: {result.refused or result.differences[:3]}")
    return float(result.held_back_ms)


async def _arrive(nats_url: str) -> None:
    """Publish facts, so many each second, until cancelled."""
    bus = await connect(nats_url, "bench")
    try:
        while True:
            await seeding.publish(bus, subjects.USAGE, packets(ARRIVING_PER_S // 2, USERS, AGENTS))
            await asyncio.sleep(1)
    finally:
        await bus.close()


async def _read(nats_url: str, seeded: Seeded) -> float:
    """Return facts per second of reading the whole stream, and nothing else."""
    bus = await connect(nats_url, "bench")
    reader = StreamReader(bus, subjects.USAGE, [subjects.ALL_USAGE])
    began = time.perf_counter()
    async with aclosing(reader.batches(None)) as batches:
        async for batch in batches:
            if batch.checkpoint.sequence >= seeded.messages:
                break
    seconds = time.perf_counter() - began
    await bus.close()
    return seeded.facts / seconds
