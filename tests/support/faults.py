"""Ways in which processes of a running stack die, and the record of each death."""

import os
import signal
import threading
from collections.abc import Collection
from dataclasses import dataclass, replace

import psutil
from webhost_kit.clock import now_ms

from tests.support.cluster import nodes, until_whole
from tests.support.deadline import until
from tests.support.stack import Stack, kind_of

CRASH_S = 20
# How long a report may have been unsent or in flight when its path was cut, on a loaded machine.
_IN_FLIGHT_MS = 3_000


@dataclass(frozen=True)
class Death:
    """Who died, when (Unix ms), and when everything answered again.

    `refused` is how many reports ingest refused meanwhile, as it counts them itself: known where
    only a server of a cluster was away, which is no reason by itself.
    """

    names: frozenset[str]
    at_ms: int
    back_ms: int
    refused: int | None = None

    def may_lose_report(self, answered_ms: int) -> bool:
        """Whether the contract lets the Worker's report of a call that was answered then be lost.

        The Worker posts three times within three seconds and keeps nothing: a report is lost when
        it dies with the Worker, or when ingest or the bus is away for all of its tries. Of a
        cluster the others go on, and refuse while they choose who leads USAGE: what ingest
        acknowledged is never lost.
        """
        dead = {kind_of(name) for name in self.names}
        if not dead & {"telemetry-ingest", "nats", "edge", "workers"}:
            return False
        if self.refused == 0:
            return False
        return self.at_ms - _IN_FLIGHT_MS <= answered_ms <= self.back_ms


@dataclass(frozen=True)
class Crash:
    """A service dies at a named point: within the work, wherever the process then is."""

    point: str

    @property
    def spares_calls(self) -> bool:
        """Neither api nor deployer stands between callers and agents."""
        return self.point.startswith(("api.", "deployer."))

    def prepare(self, stack: Stack) -> dict[str, int]:
        stack.crash_at(self.point)
        return stack.pids()

    def strike(self, stack: Stack, before: dict[str, int], moment_s: float) -> Death:
        """Return when it has died there, and runs again."""
        until(stack.crashed, f"a service to reach {self.point}", seconds=CRASH_S)
        return died(stack, before, now_ms())


@dataclass(frozen=True)
class RelayCrashes:
    """Four times over, the service whose relay publishes next dies before it marks that."""

    point = "relay.published"
    spares_calls = False

    def prepare(self, stack: Stack) -> dict[str, int]:
        stack.crash_at(self.point)
        return stack.pids()

    def strike(self, stack: Stack, before: dict[str, int], moment_s: float) -> Death:
        at_ms = now_ms()
        for again in (True, True, True, False):
            until(stack.crashed, "a relay to publish", seconds=CRASH_S)
            if again:
                stack.crash_at(self.point)
        return died(stack, before, at_ms)


@dataclass(frozen=True)
class Kill:
    """A process is killed at a moment of its own. `workers` is every workerd of the edge."""

    name: str
    spares_calls = False
    point = None

    def prepare(self, stack: Stack) -> dict[str, int]:
        return stack.pids()

    def strike(self, stack: Stack, before: dict[str, int], moment_s: float) -> Death:
        threading.Event().wait(moment_s)
        if self.name != "workers":
            refused_before, at_ms = refused_reports(stack), now_ms()
            os.kill(before[self.name], signal.SIGKILL)
            return of_cluster(stack, died(stack, before, at_ms), refused_before)
        workers = [
            child
            for child in psutil.Process(before["edge"]).children(recursive=True)
            if "workerd" in child.name()
        ]
        assert workers, "no workerd runs"
        at_ms = now_ms()
        for worker in workers:
            worker.kill()
        stack.until_ready()
        return Death(frozenset({"workers"}), at_ms, now_ms())


@dataclass(frozen=True)
class Freeze:
    """A process stands still for a while, holding all its connections, and then goes on."""

    name: str
    seconds: float
    spares_calls = False
    point = None

    def prepare(self, stack: Stack) -> dict[str, int]:
        return stack.pids()

    def strike(self, stack: Stack, before: dict[str, int], moment_s: float) -> Death:
        threading.Event().wait(moment_s)
        refused_before, at_ms = refused_reports(stack), now_ms()
        with stack.frozen(self.name):
            threading.Event().wait(self.seconds)
        until_led(stack, [self.name])
        death = Death(frozenset({self.name}), at_ms, now_ms())
        return of_cluster(stack, death, refused_before)


Fault = Crash | RelayCrashes | Kill | Freeze


def died(stack: Stack, before: dict[str, int], at_ms: int) -> Death:
    """Wait until all is well again; return who died."""
    stack.until_replaced(before)
    stack.until_ready()
    after = stack.pids()
    names = frozenset(name for name, pid in after.items() if before[name] != pid)
    until_led(stack, names)
    return Death(names, at_ms, now_ms())


def refused_reports(stack: Stack) -> int:
    """How many reports ingest could not store, by its own count."""
    series = 'webhost_http_problems_total{code="UNAVAILABLE",'
    return sum(
        int(float(line.rpartition(" ")[2]))
        for name in stack.pids()
        if kind_of(name) == "telemetry-ingest"
        for line in stack.metrics(name).splitlines()
        if line.startswith(series)
    )


def of_cluster(stack: Stack, death: Death, refused_before: int) -> Death:
    """Return it with what ingest refused meanwhile, where that alone excuses a missing report."""
    others = len(nodes(stack)) - len(death.names)
    if others and {kind_of(name) for name in death.names} == {"nats"}:
        return replace(death, refused=refused_reports(stack) - refused_before)
    return death


def until_led(stack: Stack, names: Collection[str]) -> None:
    """Return when a NATS cluster is well again, of which one of these was a server.

    A service is ready while the others choose who is to lead a stream, which takes seconds.
    """
    if any(kind_of(name) == "nats" for name in names) and len(nodes(stack)) > 1:
        until_whole(stack)
