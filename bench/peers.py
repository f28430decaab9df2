"""The gateway beside LiteLLM's proxy, each in front of the same trivial Worker.

They are not made for the same: what each does for a call is in the notes.
"""

import time
from contextlib import ExitStack
from functools import partial

from bench import litellm, load, upstreams, ways
from bench.gateways import gateway, issuer
from bench.harness import Figure, interleave
from bench.options import Options
from bench.report import progress
from bench.servers import Infrastructure, processor_s, resident_mb
from bench.ways import Seen, Way

AGENTS = 10
CONNECTIONS = 32
WARM_UP_S = 3
IDLE = 0.05
"""Of one processor: with less, a proxy is taken to be done with the calls that were broken off."""
SETTLED_S = 30
OURS, THEIRS = "wrk > gateway > workerd", "wrk > LiteLLM > workerd"

NOTES = [
    "peers, what a call gets of this gateway: its JWT checked against the issuer's keys, rate and"
    " budgets checked, a durable record and its share of the quota before it is made, an Ed25519"
    " signature for the Worker, the answer checked, and a durable fact of its outcome on NATS.",
    f"peers, what a call gets of LiteLLM {litellm.VERSION} as configured here (one worker, a master"
    " key, no database, no Redis): the key compared, the model's deployment chosen by its router,"
    " the request and the answer translated from and to OpenAI's API, tokens and cost computed and"
    " given to its callbacks; no durable record, no quota, no signature. With a database it writes"
    " spend behind the answers, in batches.",
]


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return throughput, latency and memory of both."""
    directory = infrastructure.directory
    with ExitStack() as stack:
        worker = stack.enter_context(upstreams.worker(directory))
        peer = stack.enter_context(litellm.proxy(directory, worker.port))
        identity = stack.enter_context(issuer(directory))
        subject = stack.enter_context(gateway(infrastructure, "few", identity, worker.port, AGENTS))
        workerd = {"workerd": worker.pid}
        calls = load.write_requests(directory / "gateway.requests", subject.calls())
        asked = load.write_requests(directory / "litellm.requests", litellm.requests())
        both = {
            "gateway": ways.through(infrastructure, subject, calls, workerd),
            "LiteLLM": Way(THEIRS, peer.port, asked, {"LiteLLM": peer.pid, **workerd}),
        }
        idle = resident_mb(subject.pid, family=True), resident_mb(peer.pid, family=True)
        for way in both.values():
            _run(way, CONNECTIONS, WARM_UP_S)
        one, many = (
            interleave(
                options.runs,
                {
                    name: partial(_run, way, connections, options.seconds)
                    for name, way in both.items()
                },
                lambda line, connections=connections: progress(
                    f"peers, connections {connections}, {line}"
                ),
            )
            for connections in (1, CONNECTIONS)
        )
        loaded = resident_mb(subject.pid, family=True), resident_mb(peer.pid, family=True)

    def figure(name: str, unit: str, ours: list[float], theirs: list[float]) -> Figure:
        return Figure(
            name=f"peers: {name}",
            unit=unit,
            path=OURS,
            limit_path=THEIRS,
            measured=ours,
            limit=theirs,
        )

    return [
        figure(
            f"throughput at {CONNECTIONS} connections",
            "/s",
            [seen.load.per_second for seen in many["gateway"]],
            [seen.load.per_second for seen in many["LiteLLM"]],
        ),
        figure(
            "p50 at 1 connection",
            "ms",
            [seen.load.p50_ms for seen in one["gateway"]],
            [seen.load.p50_ms for seen in one["LiteLLM"]],
        ),
        figure("memory when idle", "MB", [idle[0]], [idle[1]]),
        figure("memory after the calls", "MB", [loaded[0]], [loaded[1]]),
        *(
            figure
            for name, way in both.items()
            for figure in ways.cpu_figures(
                f"{name}, {CONNECTIONS} connections", way.path, many[name]
            )
        ),
    ]


def _run(way: Way, connections: int, seconds: int) -> Seen:
    """Run the load; return once the calls that its end broke off keep nobody busy."""
    seen = ways.run(way, connections, seconds)
    deadline = time.monotonic() + SETTLED_S
    before, used = 0.0, sum(map(processor_s, way.pids.values()))
    while used - before > IDLE and time.monotonic() < deadline:
        time.sleep(1)
        before, used = used, sum(map(processor_s, way.pids.values()))
    return seen
