"""telemetry-ingest, durable, against the same server without the publish."""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from webhost_contracts import signatures, subjects
from webhost_contracts.wire import encode
from webhost_kit.bus.connection import connect
from webhost_kit.clock import now_ms
from webhost_kit.keys import MasterKeys, base64url
from webhost_local.ports import LOOPBACK, free_port

from bench import load, seeding
from bench.gateways import TIERS
from bench.harness import Aim, Figure, NotMeasured, interleave
from bench.load import Load
from bench.options import Options
from bench.report import progress
from bench.seeding import Agent
from bench.servers import Infrastructure, resident_mb, service

DEPLOYMENTS = 10
USER = "usr_bench"
CONNECTIONS = (32, 256)
LATENCY_MS = 4.0
"""What half of the reports may take at most, at the fewest connections."""
WARM_UP_S = 1
MOST_PER_SECOND = 20_000
"""Reports made for every second of a run; no run may need more."""

PUBLISHED = "webhost_telemetry_ingest"
UNPUBLISHED = "bench.unpublished"

NOTES = [
    "ingest: every report has an event id of its own and is signed beforehand; an answer waits"
    " for the stream, which flushes to disk before it acknowledges.",
]


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return throughput and latency at few and many connections, and memory."""
    directory = infrastructure.directory
    nats_url = infrastructure.nats_url("ingest")
    agents = [seeding.new_agent(USER) for _ in range(DEPLOYMENTS)]
    asyncio.run(_seed(nats_url, agents))
    master = f"1:{base64url(secrets.token_bytes(32))}"
    tiers = directory / "ingest-tiers.toml"
    tiers.write_text(TIERS)
    env = {"TELEMETRY_MASTER_KEYS": master, "WEBHOST_TIERS_FILE": str(tiers)}
    ports: dict[str, int] = {}
    with ExitStack() as stack:
        pids: dict[str, int] = {}
        for module in (PUBLISHED, UNPUBLISHED):
            ports[module] = free_port()
            listen = {"LISTEN": f"{LOOPBACK}:{ports[module]}"}
            dsn = infrastructure.new_database(module.replace(".", "_"))
            pids[module] = stack.enter_context(
                service(module, directory, nats_url, dsn, env | listen)
            )
        idle_mb = resident_mb(pids[PUBLISHED])

        def run(module: str, connections: int, seconds: int) -> Load:
            count = MOST_PER_SECOND * seconds
            reports = itertools.islice(_reports(agents, MasterKeys.parse(master)), count)
            file = load.write_requests(directory / "reports.requests", reports)
            measured = load.run(ports[module], file, connections=connections, seconds=seconds)
            if measured.requests > count:
                raise NotMeasured(f"{measured.requests} requests, only {count} reports were made")
            return measured

        for module in ports:
            run(module, CONNECTIONS[0], WARM_UP_S)
        figures = [f for connections in CONNECTIONS for f in _figures(run, connections, options)]
        loaded_mb = resident_mb(pids[PUBLISHED])
    return [
        *figures,
        Figure(
            name="ingest: memory when idle",
            unit="MB",
            path="resident, ready, before any report",
            limit_path="resident after all the reports",
            measured=[idle_mb],
            limit=[loaded_mb],
            reading="measured",
            aim=Aim("at most", 120),
        ),
    ]


def _figures(
    run: Callable[[str, int, int], Load], connections: int, options: Options
) -> Iterator[Figure]:
    runs = interleave(
        options.runs,
        {
            module: partial(run, module, connections, options.seconds)
            for module in (PUBLISHED, UNPUBLISHED)
        },
        lambda line: progress(f"ingest, connections {connections}, {line}"),
    )
    path = "wrk > telemetry-ingest (HMAC, checks) > NATS USAGE, on disk"
    limit_path = "wrk > telemetry-ingest without the publish"
    yield Figure(
        name=f"ingest: throughput at {connections} connections",
        unit="/s",
        path=path,
        limit_path=limit_path,
        measured=[measured.per_second for measured in runs[PUBLISHED]],
        limit=[measured.per_second for measured in runs[UNPUBLISHED]],
        aim=Aim("at least", 0.6),
    )
    yield Figure(
        name=f"ingest: p50 at {connections} connections",
        unit="ms",
        path=path,
        limit_path=limit_path,
        measured=[measured.p50_ms for measured in runs[PUBLISHED]],
        limit=[measured.p50_ms for measured in runs[UNPUBLISHED]],
        reading="measured",
        aim=Aim("at most", LATENCY_MS) if connections == CONNECTIONS[0] else None,
    )


async def _seed(nats_url: str, agents: Sequence[Agent]) -> None:
    bus = await connect(nats_url, "bench")
    facts = (message for agent in agents for message in seeding.life(agent))
    await seeding.publish(bus, subjects.EVENTS, facts)
    await bus.close()


def _reports(agents: Sequence[Agent], keys: MasterKeys) -> Iterator[bytes]:
    """Yield signed reports, one deployment after the other, each with a new event id."""
    signers = [(agent, keys.telemetry_key(1, agent.deployment_id, 1) or b"") for agent in agents]
    for agent, key in itertools.cycle(signers):
        body = encode(
            {
                "userId": agent.user_id,
                "agentId": agent.agent_id,
                "deploymentId": agent.deployment_id,
                "runtimeProvider": seeding.PROVIDER,
                "timestampMs": now_ms(),
                "eventId": f"inv_{secrets.token_hex(13)}",
                "traceId": "bench-1",
                "requests": 1,
                "llmTokens": 120,
                "computeMs": 35,
                "errors": 0,
                "toolCalls": 2,
            }
        )
        headers = {
            "Content-Type": "application/json",
            signatures.TELEMETRY_DEPLOYMENT_HEADER: agent.deployment_id,
            signatures.TELEMETRY_SIGNATURE_HEADER: signatures.telemetry_signature(key, body),
        }
        yield load.post("/v1/telemetry/report", body, headers)
