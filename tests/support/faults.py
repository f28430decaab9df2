"""Ways in which processes of a running stack die, and the record of each death."""

import os
import signal
import threading
from collections.abc import Collection
from dataclasses import dataclass

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
    """Who died, when (Unix ms), and when everything answered again."""

    names: frozenset[str]
    at_ms: int
    back_ms: int

    def may_lose_report(self, answered_ms: int) -> bool:
        """Whether the contract lets the Worker's report of a call that was answered then be lost.

        The Worker posts three times within three seconds and keeps nothing: a report is lost when
        it dies with the Worker, or when ingest or the bus is away for all of its tries.
        """
        dead = {kind_of(name) for name in self.names}
        if not dead & {"telemetry-ingest", "nats", "edge", "workers"}:
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
            at_ms = now_ms()
            os.kill(before[self.name], signal.SIGKILL)
            return died(stack, before, at_ms)
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
        at_ms = now_ms()
        with stack.frozen(self.name):
            threading.Event().wait(self.seconds)
        until_led(stack, [self.name])
        return Death(frozenset({self.name}), at_ms, now_ms())


Fault = Crash | RelayCrashes | Kill | Freeze


def died(stack: Stack, before: dict[str, int], at_ms: int) -> Death:
    """Wait until all is well again; return who died."""
    stack.until_replaced(before)
    stack.until_ready()
    after = stack.pids()
    names = frozenset(name for name, pid in after.items() if before[name] != pid)
    until_led(stack, names)
    return Death(names, at_ms, now_ms())


def until_led(stack: Stack, names: Collection[str]) -> None:
    """Return when a NATS cluster is well again, of which one of these was a server.

    A service is ready while the others choose who is to lead a stream, which takes seconds.
    """
    if any(kind_of(name) == "nats" for name in names) and len(nodes(stack)) > 1:
        until_whole(stack)
