"""From a request to the api until two gateways act on it: a pointer flip, a disable, a delete."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from statistics import median, quantiles

import aiohttp
import msgspec
from webhost_contracts import ids
from webhost_contracts.invoke import InvokeResponse
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import base64url
from webhost_local.ports import LOOPBACK, free_port

from bench import seeding, upstreams
from bench.gateways import CALL, TIERS, gateway, invoke_path, issuer
from bench.harness import Aim, Figure, NotMeasured
from bench.options import Options
from bench.report import progress
from bench.seeding import Agent
from bench.servers import Infrastructure, service

CHANGES = 100
CHANGES_IN_SHORT = 10
IN_FORCE_S = 10.0
KEY = base64url(bytes(range(32)))
AIMS = {"p50": 50.0, "p99": 250.0}

NOTES = [
    "pointer: seen by calling the agent at both gateways over and over, one call at a time at each,"
    " until the later of them refuses, or the Worker says that it was called as the new deployment;"
    " so one call's time is in each number. The limit is the api's own answer.",
]


@dataclass(frozen=True)
class Change:
    """Seconds from just before the request until it was answered, and until it was in force."""

    answered: float
    in_force: float


@dataclass(frozen=True)
class System:
    """Where the api and the gateways answer one user, and that user's agents."""

    session: aiohttp.ClientSession
    api: str
    gateways: Sequence[str]

    async def change(self, method: str, path: str, agent: Agent, expected: str) -> Change:
        """Ask the api; return when every gateway answers the agent's calls as expected."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            seen = [
                group.create_task(self._seen(url + invoke_path(agent), expected, began))
                for url in self.gateways
            ]
            url = f"{self.api}/v1/agents/{agent.agent_id}{path}"
            async with self.session.request(method, url) as response:
                if response.status != 200:
                    said = await response.text()
                    raise NotMeasured(f"the api answered {response.status}: {said}")
            answered = time.perf_counter() - began
        return Change(answered, max(task.result() for task in seen))

    async def _seen(self, url: str, expected: str, began: float) -> float:
        said = "nothing"
        while (took := time.perf_counter() - began) < IN_FORCE_S:
            async with self.session.post(url, data=CALL) as response:
                body = await response.read()
            if response.status != 200:
                said = str(response.status)
            else:
                said = msgspec.json.decode(body, type=InvokeResponse).output.text
            if expected in said:
                return time.perf_counter() - began
        raise NotMeasured(f"not {expected} after {took:.0f} s, but: {said}")


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return p50 and p99 of the time until each kind of change is in force at two gateways."""
    count = CHANGES_IN_SHORT if options.short else CHANGES
    other: dict[str, str] = {}

    def life(agent: Agent) -> list[seeding.Message]:
        other[agent.agent_id] = new_id(ids.DEPLOYMENT, now_ms())
        return seeding.two_deployments(agent, other[agent.agent_id])

    with ExitStack() as stack:
        worker_port = stack.enter_context(upstreams.worker(infrastructure.directory)).port
        identity = stack.enter_context(issuer(infrastructure.directory))
        agents = 1 + count * options.runs
        gateways = stack.enter_context(
            gateway(
                infrastructure,
                "few",
                identity,
                worker_port,
                agents,
                users=1,
                replicas=2,
                life=life,
            )
        )
        port = free_port()
        tiers = infrastructure.directory / "tiers.toml"
        tiers.write_text(TIERS)
        env = {
            "LISTEN": f"{LOOPBACK}:{port}",
            "JWT_ISSUER": identity.url,
            "WEBHOST_TIERS_FILE": str(tiers),
            "WRITES_PER_MINUTE": "100000",
            "SECRETS_PUBLIC_KEY": f"unused:{KEY}",
            "RESPONSE_KEYS": f"bench:{KEY}",
        }
        dsn = infrastructure.new_database("api")
        directory = infrastructure.directory
        stack.enter_context(service("webhost_api", directory, gateways.nats_url, dsn, env))
        first = gateways.agents[0]

        async def run() -> dict[str, list[list[Change]]]:
            headers = gateways.headers(first)
            async with aiohttp.ClientSession(headers=headers) as session:
                urls = [f"http://{LOOPBACK}:{each}" for each in gateways.ports]
                system = System(session, f"http://{LOOPBACK}:{port}", urls)
                return await _runs(system, gateways.agents, other, options.runs, count)

        try:
            results = asyncio.run(run())
        except* (NotMeasured, aiohttp.ClientError) as errors:
            raise NotMeasured(str(errors.exceptions[0])) from errors
    return [
        _figure(kind, name, runs, read)
        for kind, runs in results.items()
        for name, read in READINGS.items()
    ]


READINGS: dict[str, Callable[[list[float]], float]] = {
    "p50": median,
    "p99": lambda times: quantiles(times, n=100, method="inclusive")[98],
}


def _figure(
    kind: str, name: str, runs: list[list[Change]], read: Callable[[list[float]], float]
) -> Figure:
    # A tail takes all samples there are: a hundred of one run say little about their hundredth.
    samples = runs if name == "p50" else [list(chain.from_iterable(runs))]
    return Figure(
        name=f"{kind} in force at two gateways, {name}",
        unit="ms",
        path="HTTP > api > outbox > relay > NATS EVENTS > two gateways > call > workerd",
        limit_path="HTTP > api, answered",
        measured=[read([change.in_force * 1000 for change in each]) for each in samples],
        limit=[read([change.answered * 1000 for change in each]) for each in samples],
        reading="measured",
        aim=Aim("at most", AIMS[name]),
    )


async def _runs(
    system: System, agents: Sequence[Agent], other: dict[str, str], runs: int, count: int
) -> dict[str, list[list[Change]]]:
    results: dict[str, list[list[Change]]] = {"pointer flip": [], "disable": [], "delete": []}
    flipped, *deleted = agents
    waiting = iter(deleted)
    for run in range(runs):
        progress(f"pointer, run {run + 1}/{runs}: {count} changes of each kind")
        flips: list[Change] = []
        disables: list[Change] = []
        for number in range(count):
            target = other[flipped.agent_id] if number % 2 else flipped.deployment_id
            path = f"/deployments/{target}/activate"
            flips.append(await system.change("POST", path, flipped, target))
        for _ in range(count):
            disables.append(await system.change("POST", "/disable", flipped, "403"))
            await system.change("POST", "/enable", flipped, "dep_")
        deletes = [await system.change("DELETE", "", next(waiting), "404") for _ in range(count)]
        for kind, changes in zip(results, (flips, disables, deletes), strict=True):
            results[kind].append(changes)
    return results
