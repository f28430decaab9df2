"""The gateway against the Worker itself and against nginx in front of it."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from webhost_contracts.invoke import PROTOCOL
from webhost_contracts.wire import encode

from bench import load, upstreams
from bench.gateways import Gateway, gateway, issuer
from bench.harness import Aim, Figure, interleave
from bench.load import Load
from bench.options import Options
from bench.report import progress
from bench.servers import Infrastructure, resident_mb

AGENTS = 10
CONNECTIONS = 32
WARM_UP_S = 2

DIRECT = "wrk > workerd"
NGINX = "wrk > nginx > workerd"
GATEWAY = "wrk > gateway (JWT, quota in Postgres, signature) > workerd"

NOTES = [
    "gateway: a real process with admission, quota, outcomes and relay on; durable Postgres and"
    " NATS; the Worker is a trivial one that answers invoke/v1, without session store or"
    " telemetry.",
]


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return latency at one connection, throughput at many, the relay's share, and memory."""
    directory = infrastructure.directory
    with ExitStack() as stack:
        worker_port = stack.enter_context(upstreams.worker(directory))
        nginx_port = stack.enter_context(upstreams.nginx(directory, worker_port))
        identity = stack.enter_context(issuer(directory))
        subject = stack.enter_context(gateway(infrastructure, "few", identity, worker_port, AGENTS))
        idle_mb = resident_mb(subject.pid)
        ports = {"workerd": worker_port, "nginx": nginx_port, "gateway": subject.port}
        direct = load.write_requests(directory / "direct.requests", [_as_a_worker_gets_it()])
        calls = load.write_requests(directory / "gateway.requests", subject.calls())
        files = {"workerd": direct, "nginx": direct, "gateway": calls}
        relayed: list[float] = []

        def subjects(connections: int) -> dict[str, Callable[[], Load]]:
            return {
                name: partial(
                    _run, subject, relayed, name, port, files[name], connections, options.seconds
                )
                for name, port in ports.items()
            }

        for name, port in ports.items():
            progress(f"gateway: warming up {name}")
            load.run(port, files[name], connections=CONNECTIONS, seconds=WARM_UP_S)
        subject.drain()
        one = interleave(options.runs, subjects(1), _progress(1))
        relayed.clear()
        many = interleave(options.runs, subjects(CONNECTIONS), _progress(CONNECTIONS))
        loaded_mb = resident_mb(subject.pid)
    return [
        *_latency(one),
        *_throughput(many),
        Figure(
            name=f"gateway: facts published while {CONNECTIONS} connections call",
            unit="/s",
            path="Postgres outbox > relay > NATS",
            limit_path="the calls admitted meanwhile",
            measured=relayed,
            limit=[run.per_second for run in many["gateway"]],
        ),
        Figure(
            name="gateway: memory when idle",
            unit="MB",
            path="resident, ready, before any call",
            limit_path="resident after all the calls",
            measured=[idle_mb],
            limit=[loaded_mb],
            reading="measured",
            aim=Aim("at most", 120),
        ),
    ]


def _latency(runs: dict[str, list[Load]]) -> list[Figure]:
    p50 = {name: [run.p50_ms for run in series] for name, series in runs.items()}
    return [
        Figure(
            name="gateway: p50 at 1 connection",
            unit="ms",
            path=GATEWAY,
            limit_path=DIRECT,
            measured=p50["gateway"],
            limit=p50["workerd"],
            reading="difference",
            aim=Aim("at most", 1.5),
        ),
        Figure(
            name="nginx: p50 at 1 connection",
            unit="ms",
            path=NGINX,
            limit_path=DIRECT,
            measured=p50["nginx"],
            limit=p50["workerd"],
        ),
    ]


def _throughput(runs: dict[str, list[Load]]) -> list[Figure]:
    rate = {name: [run.per_second for run in series] for name, series in runs.items()}
    return [
        Figure(
            name=f"gateway: throughput at {CONNECTIONS} connections",
            unit="/s",
            path=GATEWAY,
            limit_path=NGINX,
            measured=rate["gateway"],
            limit=rate["nginx"],
            aim=Aim("at least", 0.3),
        ),
        Figure(
            name=f"gateway: throughput at {CONNECTIONS} connections, against the Worker itself",
            unit="/s",
            path=GATEWAY,
            limit_path=DIRECT,
            measured=rate["gateway"],
            limit=rate["workerd"],
        ),
    ]


def _run(
    gateway: Gateway,
    relayed: list[float],
    name: str,
    port: int,
    requests: Path,
    connections: int,
    seconds: int,
) -> Load:
    measured = load.run(port, requests, connections=connections, seconds=seconds)
    if name == "gateway":
        relayed.append((measured.requests - gateway.relay_waits()) / measured.seconds)
        gateway.drain()
    return measured


def _progress(connections: int) -> Callable[[str], None]:
    return lambda line: progress(f"gateway, connections {connections}, {line}")


def _as_a_worker_gets_it() -> bytes:
    body = encode(
        {
            "protocol": PROTOCOL,
            "invocationId": "inv_bench",
            "traceId": "bench-1",
            "admittedAtMs": 0,
            "input": {"messages": [{"role": "user", "content": "hello"}]},
        }
    )
    return load.post("/invoke", body, {"Content-Type": "application/json"})
