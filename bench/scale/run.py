"""Runs of a simulated cell: calls at a rate, or from connections that wait for answers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Literal

import simpy

from bench.scale.cell import Cell
from bench.scale.measured import Measured
from bench.scale.parts import Steps, around
from bench.scale.plan import Plan

WARM_UP_S = 2.0
WORKER_CV = 0.5
PEAK = 1.3
"""So many times what ever waited before is no more than chance."""
Kind = Literal["gateway", "billing", "Postgres"]


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What dies, in seconds from the beginning: a gateway, a billing process, or Postgres, and
    with it the cell, until another takes its place.
    """

    what: Kind
    at_s: float
    noticed_s: float = 2.0
    """By when calls are sent to the other gateways."""
    away_s: float = 10.0
    """How long there is no Postgres."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run showed. Backlogs are facts: the most that waited, and those at the end."""

    per_second: float
    p50_ms: float
    p99_ms: float
    added_p50_ms: float
    """Of it, what is not the Worker's."""
    added_p99_ms: float
    refused: int
    failed: int
    worst_second_p99_ms: float
    relay_most: int
    relay_end: int
    fold_most: int
    fold_end: int
    fold_back_s: float | None
    """How long after an outage the fold had caught up."""
    postgres_busy: float
    gateway_busy: float
    billing_busy: float


def open_load(
    costs: Measured,
    plan: Plan,
    *,
    rate: float,
    worker_ms: float,
    seconds: float,
    seed: int = 1,
    outage: Outage | None = None,
) -> Result:
    """Calls come at this rate, independently of each other, to Workers that take so long."""
    rng = random.Random(seed)
    env = simpy.Environment()
    cell = _cell(env, costs, plan, rng)
    worker_s = around(rng, worker_ms / 1e3, WORKER_CV)

    def worker() -> Steps:
        yield env.timeout(worker_s())

    def arrivals() -> Steps:
        while True:
            yield env.timeout(rng.expovariate(rate))
            cell.arrive(worker)

    env.process(arrivals())
    if outage is not None:
        killed = {
            "gateway": lambda: cell.kill_gateway(outage.at_s, outage.noticed_s),
            "billing": lambda: cell.kill_billing(outage.at_s),
            "Postgres": lambda: cell.kill_postgres(outage.at_s, outage.away_s),
        }[outage.what]
        env.process(killed())
    env.run(until=WARM_UP_S + seconds)
    return _result(cell, seconds, outage)


def closed_load(
    costs: Measured, plan: Plan, *, connections: int, seconds: float, seed: int = 1
) -> Result:
    """So many connections call again as soon as they are answered, as wrk does."""
    rng = random.Random(seed)
    env = simpy.Environment()
    cell = _cell(env, costs, plan, rng)
    workerd, generator = cell.thread(), cell.thread()

    def worker() -> Steps:
        yield from workerd.work(costs.worker.item_us / 1e6)

    def connection() -> Steps:
        while True:
            yield from generator.work(costs.load.item_us / 1e6)
            yield cell.arrive(worker)

    for _ in range(connections):
        env.process(connection())
    env.run(until=WARM_UP_S + seconds)
    return _result(cell, seconds, None)


def _cell(env: simpy.Environment, costs: Measured, plan: Plan, rng: random.Random) -> Cell:
    cell = Cell(env, costs, plan, rng)
    cell.from_s = WARM_UP_S
    env.process(cell.watch())
    return cell


def _result(cell: Cell, seconds: float, outage: Outage | None) -> Result:
    seen, until_s = cell.statistics, WARM_UP_S + seconds
    relay = [waiting for at_s, waiting in seen.relay if at_s >= WARM_UP_S]
    fold = [waiting for at_s, waiting in seen.fold if at_s >= WARM_UP_S]
    p50, p99 = percentiles(seen.latencies)
    added_p50, added_p99 = percentiles(seen.added)
    return Result(
        per_second=seen.done / seconds,
        p50_ms=p50,
        p99_ms=p99,
        added_p50_ms=added_p50,
        added_p99_ms=added_p99,
        refused=seen.refused,
        failed=seen.failed,
        worst_second_p99_ms=max(
            (percentiles(each)[1] for each in seen.by_second.values()), default=0.0
        ),
        relay_most=max(relay),
        relay_end=relay[-1],
        fold_most=max(fold),
        fold_end=fold[-1],
        fold_back_s=_back_s(seen.fold, outage),
        postgres_busy=cell.postgres.busy_s / until_s / cell.postgres.count,
        gateway_busy=max(gateway.thread.busy_s for gateway in cell.gateways) / until_s,
        billing_busy=max((one.busy_s for one in cell.billings), default=0.0) / until_s,
    )


def percentiles(latencies: Sequence[float]) -> tuple[float, float]:
    """Return the 50th and the 99th, in ms."""
    if len(latencies) < 2:
        return 0.0, 0.0
    cuts = quantiles(latencies, n=100)
    return cuts[49] * 1e3, cuts[98] * 1e3


def _back_s(fold: Sequence[tuple[float, int]], outage: Outage | None) -> float | None:
    """Return how long after the outage, behind the peak that it caused, as few waited as before."""
    if outage is None:
        return None
    usual = max((n for at_s, n in fold if WARM_UP_S <= at_s < outage.at_s), default=0) * PEAK
    since = [(at_s, n) for at_s, n in fold if at_s >= outage.at_s]
    peak_s, most = max(since, key=lambda seen: seen[1])
    if most <= usual:
        return 0.0
    back = (at_s for at_s, n in since if at_s > peak_s and n <= usual)
    return next((at_s - outage.at_s for at_s in back), None)
