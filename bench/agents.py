"""Whether a call costs the same in a gateway that knows ten agents and in one that knows many."""

from contextlib import ExitStack
from functools import partial

from bench import load, upstreams
from bench.gateways import Gateway, gateway, issuer
from bench.harness import Aim, Figure, interleave
from bench.load import Load
from bench.options import Options
from bench.report import progress
from bench.servers import Infrastructure, resident_mb

FEW = 10
MANY = 20_000
MANY_IN_FULL = 100_000
MANY_IN_SHORT = 1_000
CONNECTIONS = 32
WARM_UP_S = 2
FLAT = 1.2
"""What still counts as flat: two measurements of the same thing differ by as much here."""

NOTES: list[str] = []


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return time per call, and memory, of a gateway with many agents to one with few."""
    directory = infrastructure.directory
    many_agents = MANY_IN_FULL if options.full else MANY_IN_SHORT if options.short else MANY
    with ExitStack() as stack:
        worker_port = stack.enter_context(upstreams.worker(directory)).port
        identity = stack.enter_context(issuer(directory))
        gateways: dict[str, Gateway] = {}
        for account, agents in (("few", FEW), ("many", many_agents)):
            progress(f"agents: starting a gateway that knows {agents:,}")
            gateways[account] = stack.enter_context(
                gateway(infrastructure, account, identity, worker_port, agents)
            )
        idle = {account: resident_mb(subject.pid) for account, subject in gateways.items()}
        files = {
            account: load.write_requests(directory / f"{account}.requests", subject.calls())
            for account, subject in gateways.items()
        }

        def run(account: str, seconds: int) -> Load:
            subject = gateways[account]
            measured = load.run(
                subject.port, files[account], connections=CONNECTIONS, seconds=seconds
            )
            subject.drain()
            return measured

        for account in gateways:
            run(account, WARM_UP_S)
        runs = interleave(
            options.runs,
            {account: partial(run, account, options.seconds) for account in gateways},
            lambda line: progress(f"agents, {line}"),
        )
    per_call = {
        account: [1000 / measured.per_second for measured in series]
        for account, series in runs.items()
    }
    return [
        Figure(
            name=f"gateway: time per call, knowing {many_agents:,} agents",
            unit="ms",
            path=f"wrk > gateway > workerd, {CONNECTIONS} connections, calls spread over agents",
            limit_path=f"the same, knowing {FEW} agents",
            measured=per_call["many"],
            limit=per_call["few"],
            aim=Aim("at most", FLAT),
        ),
        Figure(
            name=f"gateway: memory, knowing {many_agents:,} agents",
            unit="MB",
            path="resident, ready, before any call",
            limit_path=f"the same, knowing {FEW} agents",
            measured=[idle["many"]],
            limit=[idle["few"]],
        ),
    ]
