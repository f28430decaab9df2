"""billing's fold and rebuild against the rate at which the same stream can be read at all."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
import uvloop
from webhost_cli.rebuild import rebuild as ask_to_rebuild
from webhost_contracts import ids, subjects
from webhost_contracts.events import InvocationFinished, TelemetryAccepted
from webhost_contracts.events.telemetry import dedupe_key
from webhost_contracts.rpc import RebuildProgress, RebuildRequest
from webhost_kit.bus.connection import connect
from webhost_kit.bus.publishing import Message
from webhost_kit.bus.reader import StreamReader
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id

from bench import seeding
from bench.harness import Aim, Figure, NotMeasured, interleave
from bench.options import Options
from bench.report import progress
from bench.seeding import Agent
from bench.servers import Infrastructure, resident_mb, service

CALLS = 20_000
CALLS_IN_FULL = 200_000
USERS = 10
AGENTS = 50
FOLDED_S = 300.0
LOOK_EVERY_S = 0.02
FLAT = 1.2

NOTES = [
    "fold, rebuild: every call is on the stream twice, as the gateway's fact and as the Worker's"
    " report; the raw rate is that of the kit's StreamReader, undecoded.",
]

T = TypeVar("T")


@dataclass
class Folded:
    """What one life of billing on a new database did with the stream, in messages per second."""

    fold: float
    rebuild: float
    resident_mb: list[float] = field(default_factory=list[float])
    """After the fold, and from then on whenever the rebuild said how far it is."""


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return the rates of fold and rebuild, and the rebuild's memory."""
    nats_url = infrastructure.nats_url("fold")
    calls = CALLS_IN_FULL if options.full else CALLS
    progress(f"fold: putting {2 * calls:,} facts onto the stream")
    total = _run(_seed(nats_url, calls))
    numbers = itertools.count()
    runs = interleave(
        options.runs,
        {
            "raw": lambda: Folded(_run(_read(nats_url, total)), 0),
            "billing": lambda: _billing(infrastructure, f"billing_{next(numbers)}", total),
        },
        lambda line: progress(f"fold, {line}"),
    )
    raw = [run.fold for run in runs["raw"]]
    limit_path = f"NATS USAGE > StreamReader, {total:,} messages"
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
            name="billing: memory at a rebuild's end",
            unit="MB",
            path=f"resident, most since a quarter of {total:,} messages",
            limit_path="resident, most until then",
            measured=[max(_later(run.resident_mb)) for run in runs["billing"]],
            limit=[max(_earlier(run.resident_mb)) for run in runs["billing"]],
            aim=Aim("at most", FLAT),
        ),
    ]


def _billing(infrastructure: Infrastructure, database: str, total: int) -> Folded:
    nats_url = infrastructure.nats_url("fold")
    dsn = infrastructure.new_database(database)
    directory = infrastructure.directory
    with service("webhost_billing", directory, nats_url, dsn, {}, until="/livez") as pid:
        fold = _watch_fold(dsn, total)
        resident = [resident_mb(pid)]

        def tell(line: RebuildProgress) -> None:
            resident.append(resident_mb(pid))

        began = time.perf_counter()
        _run(_rebuild(nats_url, tell))
        return Folded(fold, total / (time.perf_counter() - began), resident)


def _watch_fold(dsn: str, total: int) -> float:
    """Return messages per second between the first checkpoint that is seen and the last."""
    began: tuple[float, int] | None = None
    deadline = time.monotonic() + FOLDED_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(
                "SELECT max(sequence) FROM checkpoints WHERE stream = %s", [subjects.USAGE]
            ).fetchone()
            now, checkpoint = time.perf_counter(), int(row[0] or 0) if row else 0
            if checkpoint and began is None:
                began = (now, checkpoint)
            if began is not None and checkpoint == total:
                if began[1] == total:
                    raise NotMeasured("the fold was over before it was seen")
                return (total - began[1]) / (now - began[0])
            time.sleep(LOOK_EVERY_S)
    raise NotMeasured(f"billing did not fold {total:,} messages in {FOLDED_S:g} s")


async def _rebuild(nats_url: str, tell: Any) -> None:
    bus = await connect(nats_url, "bench")
    result = await ask_to_rebuild(bus.client, RebuildRequest(), tell)
    await bus.close()
    if result.refused is not None or result.differences:
        raise NotMeasured(f"rebuild: {result.refused or result.differences[:3]}")


async def _read(nats_url: str, total: int) -> float:
    """Return messages per second of reading the whole stream, and nothing else."""
    bus = await connect(nats_url, "bench")
    reader = StreamReader(bus, subjects.USAGE, [subjects.ALL_USAGE])
    began = time.perf_counter()
    async with aclosing(reader.batches(None)) as batches:
        async for batch in batches:
            if batch.checkpoint.sequence == total:
                break
    seconds = time.perf_counter() - began
    await bus.close()
    return total / seconds


async def _seed(nats_url: str, calls: int) -> int:
    bus = await connect(nats_url, "bench")
    try:
        return await seeding.publish(bus, subjects.USAGE, _usage(calls))
    finally:
        await bus.close()


def _usage(calls: int) -> Iterator[Message]:
    """Yield both reports of each call, in the order in which they would come."""
    users = [f"usr_bench{number:02}" for number in range(USERS)]
    agents = [seeding.new_agent(user) for user in itertools.islice(itertools.cycle(users), AGENTS)]
    for agent in itertools.islice(itertools.cycle(agents), calls):
        yield from _call(agent)


def _call(agent: Agent) -> Iterator[Message]:
    at_ms = now_ms()
    invocation_id = new_id(ids.INVOCATION, at_ms)
    subject = subjects.usage(agent.user_id, agent.agent_id)
    finished = InvocationFinished(
        agent_id=agent.agent_id,
        deployment_id=agent.deployment_id,
        runtime_provider=seeding.PROVIDER,
        trace_id="bench-1",
        admitted_at_ms=at_ms,
        outcome="succeeded",
        wall_ms=40 + secrets.randbelow(100),
    )
    reported = TelemetryAccepted(
        agent_id=agent.agent_id,
        deployment_id=agent.deployment_id,
        runtime_provider=seeding.PROVIDER,
        dedupe_key=dedupe_key(invocation_id, None, ""),
        timestamp_ms=at_ms,
        requests=1,
        llm_tokens=100 + secrets.randbelow(1000),
        compute_ms=20 + secrets.randbelow(100),
        errors=0,
        tool_calls=1,
        trace_id="bench-1",
    )
    yield seeding.fact(invocation_id, 1, agent.user_id, finished, subject)
    yield seeding.fact(new_id(ids.EVENT, at_ms), 1, agent.user_id, reported, subject)


def _earlier(readings: list[float]) -> list[float]:
    return readings[: max(1, len(readings) // 4)]


def _later(readings: list[float]) -> list[float]:
    return readings[max(1, len(readings) // 4) :] or readings[-1:]


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on the event loop that the services run on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
