"""The gateway against the Worker itself and against nginx in front of it."""

from contextlib import ExitStack
from functools import partial
from itertools import chain

from webhost_contracts.invoke import PROTOCOL
from webhost_contracts.wire import encode

from bench import first_byte, load, tail, upstreams, ways
from bench.gateways import Gateway, gateway, issuer
from bench.harness import Aim, Figure, interleave
from bench.options import Options
from bench.report import progress
from bench.servers import Infrastructure, resident_mb
from bench.ways import Seen, Way

AGENTS = 10
CONNECTIONS = 32
MORE_CONNECTIONS = 64
OF_NGINX = {CONNECTIONS: 0.3, MORE_CONNECTIONS: 0.35}
WARM_UP_S = 2

NOTES = [
    "gateway: a real process with admission, quota, outcomes and relay on; durable Postgres and"
    " NATS; the Worker is a trivial one that answers invoke/v1, without session store or"
    " telemetry.",
    "processor time: from before the load until every fact of its calls is published; Postgres with"
    " all its backends.",
]


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return latency, throughput, the relay's share, memory, and processor time."""
    with ExitStack() as stack:
        subject, compared = _ways(infrastructure, stack)
        idle_mb = resident_mb(subject.pid)
        for name, way in compared.items():
            progress(f"gateway: warming up {name}")
            ways.run(way, CONNECTIONS, WARM_UP_S)
        one = _runs(compared, 1, options)
        many = _runs(compared, CONNECTIONS, options)
        more = _runs(
            {name: compared[name] for name in ("nginx", "gateway")}, MORE_CONNECTIONS, options
        )
        most = max(seen.load.per_second for seen in many["gateway"])
        direct = compared["workerd"]
        figures = [
            *_latency(compared, one),
            _stream(subject, direct, options),
            _throughput(compared, many, CONNECTIONS),
            _against_the_worker(compared, many),
            _throughput(compared, more, MORE_CONNECTIONS),
            *_published(many["gateway"], CONNECTIONS),
            *_published(more["gateway"], MORE_CONNECTIONS),
            *tail.measure(compared["gateway"], direct, most, options),
        ]
        loaded_mb = resident_mb(subject.pid)
    return [
        *figures,
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
        *chain.from_iterable(
            ways.cpu_figures(f"{name}, {CONNECTIONS} connections", way.path, many[name])
            for name, way in reversed(compared.items())
        ),
    ]


def _ways(infrastructure: Infrastructure, stack: ExitStack) -> tuple[Gateway, dict[str, Way]]:
    directory = infrastructure.directory
    worker = stack.enter_context(upstreams.worker(directory))
    nginx = stack.enter_context(upstreams.nginx(directory, worker.port))
    identity = stack.enter_context(issuer(directory))
    subject = stack.enter_context(gateway(infrastructure, "few", identity, worker.port, AGENTS))
    direct = load.write_requests(directory / "direct.requests", [as_a_worker_gets_it()])
    calls = load.write_requests(directory / "gateway.requests", subject.calls())
    workerd = {"workerd": worker.pid}
    return subject, {
        "workerd": Way("wrk > workerd", worker.port, direct, workerd),
        "nginx": Way("wrk > nginx > workerd", nginx.port, direct, {"nginx": nginx.pid, **workerd}),
        "gateway": ways.through(infrastructure, subject, calls, workerd),
    }


def _runs(compared: dict[str, Way], connections: int, options: Options) -> dict[str, list[Seen]]:
    return interleave(
        options.runs,
        {
            name: partial(ways.run, way, connections, options.seconds)
            for name, way in compared.items()
        },
        lambda line: progress(f"gateway, connections {connections}, {line}"),
    )


def _latency(compared: dict[str, Way], runs: dict[str, list[Seen]]) -> list[Figure]:
    p50 = {name: [seen.load.p50_ms for seen in series] for name, series in runs.items()}
    return [
        Figure(
            name=f"{name}: p50 at 1 connection",
            unit="ms",
            path=compared[name].path,
            limit_path=compared["workerd"].path,
            measured=p50[name],
            limit=p50["workerd"],
            reading="difference",
            aim=Aim("at most", 1.0) if name == "gateway" else None,
        )
        for name in ("gateway", "nginx")
    ]


def _stream(subject: Gateway, direct: Way, options: Options) -> Figure:
    request = as_a_worker_gets_it(accept="text/event-stream")
    return first_byte.measure(subject, direct.port, request, options)


def _throughput(compared: dict[str, Way], runs: dict[str, list[Seen]], connections: int) -> Figure:
    return Figure(
        name=f"gateway: throughput at {connections} connections",
        unit="/s",
        path=compared["gateway"].path,
        limit_path=compared["nginx"].path,
        measured=_rates(runs["gateway"]),
        limit=_rates(runs["nginx"]),
        aim=Aim("at least", OF_NGINX[connections]),
    )


def _against_the_worker(compared: dict[str, Way], runs: dict[str, list[Seen]]) -> Figure:
    return Figure(
        name=f"gateway: throughput at {CONNECTIONS} connections, against the Worker itself",
        unit="/s",
        path=compared["gateway"].path,
        limit_path=compared["workerd"].path,
        measured=_rates(runs["gateway"]),
        limit=_rates(runs["workerd"]),
    )


def _published(runs: list[Seen], connections: int) -> list[Figure]:
    return [
        Figure(
            name=f"gateway: facts published while {connections} connections call",
            unit="/s",
            path="Postgres outbox > relay > NATS",
            limit_path="the calls that ended meanwhile",
            measured=[seen.published_per_second for seen in runs],
            limit=[seen.stated_per_second for seen in runs],
            aim=Aim("at least", 0.99),
        ),
        Figure(
            name=f"gateway: oldest unpublished fact while {connections} connections call",
            unit="s",
            path="the age of the outbox's oldest row, ten times a second, at most",
            limit_path="the length of the run",
            measured=[max(seen.oldest_s) for seen in runs],
            limit=[seen.load.seconds for seen in runs],
            reading="measured",
            aim=Aim("at most", 2),
        ),
    ]


def _rates(runs: list[Seen]) -> list[float]:
    return [seen.load.per_second for seen in runs]


def as_a_worker_gets_it(accept: str = "application/json") -> bytes:
    """Return the request that a Worker gets of the gateway, without its signature."""
    body = encode(
        {
            "protocol": PROTOCOL,
            "invocationId": "inv_bench",
            "traceId": "bench-1",
            "admittedAtMs": 0,
            "input": {"messages": [{"role": "user", "content": "hello"}]},
        }
    )
    return load.post("/invoke", body, {"Content-Type": "application/json", "Accept": accept})
