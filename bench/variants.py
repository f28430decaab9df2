"""The gateway as it is used otherwise: each way against the plain one, in turns.

API keys instead of JWTs; 20,000 agents known; calls spread over 1,000 users; all calls traced,
their spans posted to the trivial Worker; and deployments of the platform's own behind it, a front
and an agent script with session and usage report. The last is
compared by what a call costs the gateway's process, at one pace for both: the local edge, an HTTP
proxy in Python, is slower than the gateway.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial

import httpx
from webhost_local.issuer.identity import IssuerIdentity
from webhost_local.ports import LOOPBACK

from bench import front, load, seeding, upstreams, ways
from bench.gateways import CALL, Gateway, gateway, invoke_path, issuer, new_seed
from bench.harness import Aim, Figure, interleave
from bench.options import Options
from bench.report import progress
from bench.seeding import Agent
from bench.servers import Infrastructure
from bench.ways import Seen, Way

AGENTS = 10
MANY_AGENTS = 20_000
MANY_AGENTS_IN_SHORT = 1_000
MANY_USERS = 1_000
SESSIONS = 64
CONNECTIONS = 32
FEW_CONNECTIONS = 8
WARM_UP_S = 3
AS_GOOD = 0.9
TRACES = "every call traced"
TRACED = 0.5

NOTES = [
    "gateway variants: the front's gateway and the plain one are called at the same even pace, half"
    " of what the local edge can do; each call goes on with one of 64 sessions.",
]


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return each variant's throughput, and the gateway's own cost in front of real scripts."""
    directory = infrastructure.directory
    many_agents = MANY_AGENTS_IN_SHORT if options.short else MANY_AGENTS
    with ExitStack() as stack:
        worker = stack.enter_context(upstreams.worker(directory))
        identity = stack.enter_context(issuer(directory))

        def started(account: str, agents: int, users: int, **settings: str) -> Gateway:
            progress(f"gateway variants: starting one with {agents:,} agents of {users:,} users")
            return stack.enter_context(
                gateway(
                    infrastructure,
                    account,
                    identity,
                    worker.port,
                    agents,
                    users=users,
                    settings=settings,
                )
            )

        def way(name: str, subject: Gateway, calls: list[bytes]) -> Way:
            file = load.write_requests(directory / f"{name}.requests", calls)
            return ways.through(infrastructure, subject, file, {"workerd": worker.pid})

        plain = started("few", AGENTS, AGENTS)
        many = started("many", many_agents, AGENTS)
        users = started("users", MANY_USERS, MANY_USERS)
        collector = f"http://{LOOPBACK}:{worker.port}"
        traced = started("traced", AGENTS, AGENTS, OTEL_EXPORTER_OTLP_ENDPOINT=collector)
        variants = {
            "plain": way("plain", plain, plain.calls()),
            "API keys": way("keys", plain, plain.calls(with_keys=True)),
            f"{many_agents:,} agents": way("many", many, many.calls()),
            f"{MANY_USERS:,} users": way("users", users, users.calls()),
            TRACES: way("traced", traced, traced.calls()),
        }
        for each in variants.values():
            ways.run(each, CONNECTIONS, WARM_UP_S)
        runs = _runs(variants, lambda one: ways.run(one, CONNECTIONS, options.seconds), options)
        behind = stack.enter_context(_front(infrastructure, identity, worker.port))
        fronted = way("front", behind, _with_sessions(behind))
        rate = ways.run(fronted, FEW_CONNECTIONS, WARM_UP_S).load.per_second / 2
        pair = {"plain": variants["plain"], "front": fronted}
        costs = _runs(pair, lambda one: ways.paced(one, rate, options.seconds), options)
    return [
        *(_throughput(name, runs) for name in variants if name != "plain"),
        _cost(costs, rate),
    ]


def _runs(
    subjects: dict[str, Way], run: Callable[[Way], Seen], options: Options
) -> dict[str, list[Seen]]:
    return interleave(
        options.runs,
        {name: partial(run, way) for name, way in subjects.items()},
        lambda line: progress(f"gateway variants, {line}"),
    )


def _throughput(name: str, runs: dict[str, list[Seen]]) -> Figure:
    return Figure(
        name=f"gateway variants: {name}",
        unit="/s",
        path=f"wrk > gateway > workerd, {CONNECTIONS} connections",
        limit_path=f"the same with JWTs, {AGENTS} agents of {AGENTS} users",
        measured=[seen.load.per_second for seen in runs[name]],
        limit=[seen.load.per_second for seen in runs["plain"]],
        aim=Aim("at least", TRACED if name == TRACES else AS_GOOD),
    )


def _cost(runs: dict[str, list[Seen]], rate: float) -> Figure:
    per_second = {
        name: [1e6 / seen.cpu_us["gateway"] for seen in series] for name, series in runs.items()
    }
    return Figure(
        name="gateway variants: front and agent script",
        unit="/CPU s",
        path=f"calls per second of the gateway's processor time, {rate:,.0f} calls/s > edge > front"
        " > agent script",
        limit_path="the same with the trivial Worker",
        measured=per_second["front"],
        limit=per_second["plain"],
        aim=Aim("at least", AS_GOOD),
    )


@contextmanager
def _front(
    infrastructure: Infrastructure, identity: IssuerIdentity, reports: int
) -> Generator[Gateway]:
    """Run a gateway whose agent's deployment is on a local edge; usage reports go to `reports`."""
    seed = new_seed()
    directory = infrastructure.directory
    with (
        front.edge(directory, reports) as (api, origin),
        gateway(
            infrastructure, "front", identity, origin, 1, users=1, seed=seed, life=_life
        ) as subject,
    ):
        front.deploy(api, reports, f"bench:{seed}", subject.agents)
        yield subject


def _life(agent: Agent) -> list[seeding.Message]:
    return seeding.life(agent, f"https://{front.host_of(agent)}/invoke")


def _with_sessions(subject: Gateway) -> list[bytes]:
    """Return calls that each go on with a session of their own."""
    [agent] = subject.agents
    url = f"http://{LOOPBACK}:{subject.port}{invoke_path(agent)}"
    calls: list[bytes] = []
    with httpx.Client(headers=subject.headers(agent), timeout=60) as client:
        for _ in range(SESSIONS):
            session_id = client.post(url, content=CALL).raise_for_status().json()["sessionId"]
            body = CALL.removesuffix(b"}") + b',"sessionId":"%b"}' % session_id.encode()
            calls.append(load.post(invoke_path(agent), body, subject.headers(agent)))
    return calls
