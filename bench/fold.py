"""billing's fold and rebuild against the rate of merely reading the same stream."""

import asyncio
import itertools
import secrets
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import psycopg
import uvloop
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from webhost_billing.partitions import checkpoint_name
from webhost_cli.rebuild import rebuild as ask_to_rebuild
from webhost_contracts import ids, subjects, wire
from webhost_contracts.events import Envelope, InvocationFinished, TelemetryAccepted
from webhost_contracts.events.packets import PACKET as PACKET_TYPE
from webhost_contracts.events.packets import pack
from webhost_contracts.events.telemetry import dedupe_key
from webhost_contracts.usage_rpc import RebuildRequest
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.publishing import Message
from webhost_kit.bus.reader import StreamReader
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.tasks import cancel

from bench import seeding
from bench.harness import Aim, Figure, NotMeasured, interleave
from bench.options import Options
from bench.report import progress
from bench.sampling import sampled
from bench.seeding import Agent
from bench.servers import Infrastructure, resident_mb, service

CALLS = 200_000
CALLS_IN_SHORT = 10_000
CALLS_IN_FULL = 500_000
ARRIVING_PER_S = 200
"""Facts that arrive while usage is rebuilt."""
USERS = 100
AGENTS = 500
PACKET = {subjects.GATEWAY: 8, subjects.TELEMETRY_INGEST: 4}
"""Facts per message, about what both produce at 2,500 calls a second: a producer's concurrent facts
are spread over 16 partitions."""
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

T = TypeVar("T")


@dataclass(frozen=True)
class Seeded:
    """What is on the stream: facts, messages, and each partition's last sequence."""

    facts: int = 0
    messages: int = 0
    last: dict[str, int] = field(default_factory=dict[str, int])
    """By the name of billing's checkpoint."""


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
            await seeding.publish(bus, subjects.USAGE, _packets(ARRIVING_PER_S // 2, USERS, AGENTS))
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


async def seed(
    nats_url: str, calls: int, before: Seeded, *, users: int = USERS, agents: int = AGENTS
) -> Seeded:
    """Put so many calls more onto the stream; return what it holds then."""
    bus = await connect(nats_url, "bench")
    try:
        messages = await seeding.publish(bus, subjects.USAGE, _packets(calls, users, agents))
        last = {
            checkpoint_name(partition): message.seq or 0
            for partition in range(subjects.PARTITIONS)
            if (message := await _last(bus, partition)) is not None
        }
        return Seeded(before.facts + 2 * calls, before.messages + messages, last)
    finally:
        await bus.close()


async def _last(bus: Bus, partition: int) -> RawStreamMsg | None:
    with suppress(NotFoundError):
        return await bus.js.get_last_msg(subjects.USAGE, subjects.usage_partition(partition))
    return None


def _packets(calls: int, users: int, agents: int) -> Iterator[Message]:
    """Yield both reports of each call, about in the order in which they would come."""
    owners = [ids.user_id("bench", f"user {number}") for number in range(users)]
    known = [seeding.new_agent(user) for user in itertools.islice(itertools.cycle(owners), agents)]
    waiting: dict[tuple[int, str], list[bytes]] = defaultdict(list)
    for agent in itertools.islice(itertools.cycle(known), calls):
        partition = subjects.partition_of(agent.user_id)
        for producer, envelope in _call(agent):
            key = (partition, producer)
            waiting[key].append(wire.encode(envelope))
            if len(waiting[key]) == PACKET[producer]:
                yield _packet(*key, waiting.pop(key))
    for key, bodies in waiting.items():
        yield _packet(*key, bodies)


def _packet(partition: int, producer: str, bodies: list[bytes]) -> Message:
    subject = subjects.usage_packets(partition, producer)
    return Message(subject, pack(bodies), {subjects.TYPE_HEADER: PACKET_TYPE})


def _call(agent: Agent) -> Iterator[tuple[str, Envelope]]:
    at_ms = now_ms()
    invocation_id = new_id(ids.INVOCATION, at_ms)
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
    yield subjects.GATEWAY, seeding.envelope(invocation_id, 1, agent.user_id, finished)
    event_id = new_id(ids.EVENT, at_ms)
    yield subjects.TELEMETRY_INGEST, seeding.envelope(event_id, 1, agent.user_id, reported)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on the event loop that the services run on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
