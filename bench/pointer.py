"""How long after its fact is published a new pointer is in force in a gateway."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median, quantiles

import aiohttp
import msgspec
from webhost_contracts import ids
from webhost_contracts.invoke import InvokeResponse
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.publishing import Message, publish
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_local.ports import LOOPBACK

from bench import seeding, upstreams
from bench.gateways import CALL, Gateway, gateway, invoke_path, issuer
from bench.harness import Aim, Figure, NotMeasured
from bench.options import Options
from bench.report import progress
from bench.servers import Infrastructure

FLIPS = 100
AGENTS = 10
VISIBLE_S = 10.0
FIRST_VERSION = 3
"""What a seeded agent's next fact has."""

NOTES = [
    "pointer: seen by calling the agent over and over, one call at a time, until the Worker says"
    " that it was called as the new deployment; so one call's time is in each number.",
]


@dataclass(frozen=True)
class Flip:
    """Seconds from just before the publish until the stream had it, and until it was in force."""

    acknowledged: float
    visible: float


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return p50 and p99 of the time until a flip is in force."""
    with ExitStack() as stack:
        worker_port = stack.enter_context(upstreams.worker(infrastructure.directory))
        identity = stack.enter_context(issuer(infrastructure.directory))
        subject = stack.enter_context(gateway(infrastructure, "few", identity, worker_port, AGENTS))
        runs = asyncio.run(_runs(subject, options.runs))
    return [
        _figure("p50", runs, median, Aim("at most", 50)),
        _figure("p99", runs, lambda times: quantiles(times, n=100)[98], Aim("at most", 250)),
    ]


def _figure(
    name: str, runs: list[list[Flip]], read: Callable[[list[float]], float], aim: Aim
) -> Figure:
    return Figure(
        name=f"gateway: pointer flip in force, {name}",
        unit="ms",
        path="NATS EVENTS > gateway's route table > call > workerd",
        limit_path="NATS EVENTS acknowledges the fact",
        measured=[read([flip.visible * 1000 for flip in run]) for run in runs],
        limit=[read([flip.acknowledged * 1000 for flip in run]) for run in runs],
        reading="measured",
        aim=aim,
    )


async def _runs(subject: Gateway, runs: int) -> list[list[Flip]]:
    agent = subject.agents[0]
    url = f"http://{LOOPBACK}:{subject.port}{invoke_path(agent)}"
    bus = await connect(subject.nats_url, "bench")
    version = FIRST_VERSION
    results: list[list[Flip]] = []
    async with aiohttp.ClientSession(headers=subject.headers(agent)) as session:
        for run in range(runs):
            progress(f"pointer, run {run + 1}/{runs}: {FLIPS} flips")
            flips: list[Flip] = []
            for _ in range(FLIPS):
                deployment_id = new_id(ids.DEPLOYMENT, now_ms())
                for message in seeding.deployed(agent, deployment_id):
                    await _publish(bus, message)
                fact = seeding.pointed(agent, version, deployment_id)
                flips.append(await _flip(bus, fact, session, url, deployment_id))
                version += 1
            results.append(flips)
    await bus.close()
    return results


async def _flip(
    bus: Bus, fact: Message, session: aiohttp.ClientSession, url: str, deployment_id: str
) -> Flip:
    began = time.perf_counter()
    publishing = asyncio.create_task(_publish(bus, fact))
    while time.perf_counter() - began < VISIBLE_S:
        if deployment_id in await _called_as(session, url):
            visible = time.perf_counter() - began
            return Flip(await publishing - began, visible)
    raise NotMeasured(f"a pointer flip was not in force after {VISIBLE_S} s")


async def _called_as(session: aiohttp.ClientSession, url: str) -> str:
    async with session.post(url, data=CALL) as response:
        body = await response.read()
        if response.status != 200:
            raise NotMeasured(f"the gateway answered {response.status}: {body[:300]!r}")
        return msgspec.json.decode(body, type=InvokeResponse).output.text


async def _publish(bus: Bus, message: Message) -> float:
    """Publish one fact; return when it was acknowledged."""
    await publish(bus, message)
    return time.perf_counter()
