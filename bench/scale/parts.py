"""The parts that a cell is simulated of: cores, threads, a disk that commits in groups, batches.

Queues are first come, first served. A queue of that kind needs no event of its own for waiting:
when a piece of work begins follows from the work before it.
"""

import heapq
import math
import random
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

import simpy

T = TypeVar("T")
Steps = Generator[simpy.Event, Any, None]

Draw = Callable[[], float]


def around(rng: random.Random, mean: float, cv: float) -> Draw:
    """Return what draws lognormal times of this mean and coefficient of variation."""
    if cv == 0 or mean == 0:
        return lambda: mean
    sigma = math.sqrt(math.log(1 + cv * cv))
    mu = math.log(mean) - sigma * sigma / 2
    return lambda: rng.lognormvariate(mu, sigma)


def alone(place: simpy.Resource, steps: Steps) -> Steps:
    """Take these steps once nobody else has the place."""
    turn = place.request()
    yield turn
    yield from steps
    place.release(turn)


class Cores:
    """So many cores; work goes to the one that is free first."""

    def __init__(self, env: simpy.Environment, count: int) -> None:
        self._env = env
        self._free = [0.0] * count
        self.count = count
        self.busy_s = 0.0

    def work(self, seconds: float) -> simpy.Event:
        """Return the end of this much work."""
        now = self._env.now
        ends = max(now, self._free[0]) + seconds
        heapq.heapreplace(self._free, ends)
        self.busy_s += seconds
        return self._env.timeout(ends - now)


class Thread:
    """A process that does one thing at a time, on a core of its own or on cores that it shares."""

    def __init__(self, env: simpy.Environment, shared: Cores | None = None) -> None:
        self._one = simpy.Resource(env) if shared else None
        self._cores = shared or Cores(env, 1)
        self.busy_s = 0.0

    def work(self, seconds: float) -> Steps:
        """Do this much work."""
        self.busy_s += seconds
        if self._one is None:
            yield self._cores.work(seconds)
            return
        yield from alone(self._one, self._work(seconds))

    def _work(self, seconds: float) -> Steps:
        yield self._cores.work(seconds)


class Disk:
    """Commits in groups: who comes during a flush waits for the next one, with all others."""

    def __init__(self, env: simpy.Environment, flush_s: Draw) -> None:
        self._env = env
        self._flush_s = flush_s
        self._waiting: list[simpy.Event] = []
        self._flushing = False
        self.flushes = 0
        self.away_until_s = 0.0

    def commit(self) -> simpy.Event:
        """Return the end of the flush that holds what was written until now."""
        done = self._env.event()
        self._waiting.append(done)
        if not self._flushing:
            self._flushing = True
            self._env.process(self._flush())
        return done

    def _flush(self) -> Steps:
        while self._waiting:
            group, self._waiting = self._waiting, []
            self.flushes += 1
            away_s = max(0.0, self.away_until_s - self._env.now)
            yield self._env.timeout(away_s + self._flush_s())
            for done in group:
                done.succeed()
        self._flushing = False


class Batches(Generic[T]):
    """What the services' batcher does: while one batch is handled, the next one collects."""

    def __init__(
        self,
        env: simpy.Environment,
        handle: Callable[[list[T]], Steps],
        *,
        linger_s: float = 0.0,
        most: int = 500,
    ) -> None:
        self._env = env
        self._handle = handle
        self._linger_s = linger_s
        self._most = most
        self._running = False
        self.stopped = False
        """Set when the process dies: what waits, waits on."""
        self.waiting: list[T] = []
        self.batches = 0

    def add(self, item: T) -> None:
        """Put an item into the next batch."""
        self.waiting.append(item)
        if not self._running:
            self._running = True
            self._env.process(self._run())

    def _run(self) -> Steps:
        yield self._env.timeout(self._linger_s)
        while self.waiting and not self.stopped:
            batch, self.waiting = self.waiting[: self._most], self.waiting[self._most :]
            self.batches += 1
            yield from self._handle(batch)
        self._running = False
