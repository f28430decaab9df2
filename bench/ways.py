"""The ways of a call that are compared, and what is seen of each while load runs."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from webhost_kit.clock import now_ms

from bench import load
from bench.backlog import watched
from bench.gateways import Gateway
from bench.harness import Figure, NotMeasured
from bench.load import Load
from bench.servers import Infrastructure, processor_s

CPU_TABLE = "Processor time per call, by process"
GENERATOR = "load generator"


@dataclass(frozen=True)
class Way:
    """One way: its hops, where the load goes, and the processes that a call keeps busy."""

    path: str
    port: int
    requests: Path
    pids: Mapping[str, int]
    gateway: Gateway | None = None


@dataclass(frozen=True)
class Seen:
    """What one run showed: the load's own numbers, and µs of processor time per call.

    Of a gateway also how many facts it recorded and published each second while the load ran, and
    how long the oldest unpublished one had waited, in seconds, time after time.
    """

    load: Load
    cpu_us: dict[str, float]
    stated_per_second: float = 0.0
    published_per_second: float = 0.0
    oldest_s: tuple[float, ...] = ()


def through(
    infrastructure: Infrastructure, gateway: Gateway, requests: Path, upstream: Mapping[str, int]
) -> Way:
    """Return the way through a gateway to an upstream's processes."""
    pids = {
        "gateway": gateway.pid,
        "Postgres": infrastructure.postgres_pid,
        "NATS": infrastructure.nats_pid,
        **upstream,
    }
    path = "wrk > gateway (JWT, quota in Postgres, signature) > workerd"
    return Way(path, gateway.port, requests, pids, gateway)


def run(way: Way, connections: int, seconds: int) -> Seen:
    """Send requests as fast as they are answered."""
    return _seen(
        way,
        lambda: load.run(way.port, way.requests, connections=connections, seconds=seconds),
    )


def paced(way: Way, rate: float, seconds: int) -> Seen:
    """Send so many requests a second."""
    return _seen(way, lambda: load.paced(way.port, way.requests, rate=rate, seconds=seconds))


def _seen(way: Way, generate: Callable[[], Load]) -> Seen:
    """Look at the processes until all that the calls cause is done: until its facts are published.

    So it does not slow down the next run either.
    """
    before = {name: processor_s(pid) for name, pid in way.pids.items()}
    stated = published = 0
    began_ms = now_ms()
    with watched(way.gateway.dsn) if way.gateway else nullcontext(list[float]()) as oldest:
        made = generate()
        if way.gateway is not None:
            stated, published = way.gateway.facts_since(began_ms)
    if way.gateway is not None:
        if not oldest:
            raise NotMeasured("the outbox was not looked at")
        way.gateway.drain()
    used = {name: processor_s(pid) - before[name] for name, pid in way.pids.items()}
    used[GENERATOR] = made.cpu_s
    return Seen(
        load=made,
        cpu_us={name: seconds / made.requests * 1e6 for name, seconds in used.items()},
        stated_per_second=stated / made.seconds,
        published_per_second=published / made.seconds,
        oldest_s=tuple(oldest),
    )


def cpu_figures(what: str, path: str, runs: list[Seen]) -> list[Figure]:
    """Return what a call costs each process, against all of the way's together."""
    together = [sum(seen.cpu_us.values()) for seen in runs]
    return [
        Figure(
            name=f"{what}: {process}",
            unit="µs",
            path=path,
            limit_path="all of its processes together",
            measured=[seen.cpu_us[process] for seen in runs],
            limit=together,
            table=CPU_TABLE,
        )
        for process in runs[0].cpu_us
    ]
