"""One cell, simulated: what a call does at its gateway, in Postgres, on NATS and at billing.

The steps are those of the services: admission and outcome in batches, each one durable statement;
the relay's packets after its wait; reports in micro-batches; a fold for each of 16 partitions, in
as many processes as there are. What a user's row locks is simulated for one user, the busiest.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import simpy
from webhost_billing.projection import BATCH, PAUSE_S
from webhost_contracts.subjects import PARTITIONS
from webhost_gateway.ledger import admission, outcomes, usage_relay
from webhost_gateway.settings import Settings as GatewaySettings

from bench.scale.measured import Measured, Part
from bench.scale.parts import Batches, Cores, Disk, Draw, Steps, Thread, alone, around
from bench.scale.plan import Plan, Statistics

LEASE_S: float = 2 * GatewaySettings.model_fields["lease_ttl_s"].default
"""A lease, and as long again: then a dead gateway's calls are finished, its facts adopted."""
SHARE_S = 10.0
"""How soon the partitions of a dead billing process are another's: see `PartitionShare`."""


@dataclass
class Asked:
    """A call that waits for its admission."""

    at: float
    is_hot: bool
    admitted: simpy.Event


class Gateway:
    """One gateway process: a thread, a connection that admits, one that records, a relay."""

    def __init__(self, cell: "Cell") -> None:
        self._cell = cell
        self.thread = cell.thread()
        self.alive = True
        self.open = 0
        """Calls that were admitted, and whose outcome is not recorded."""
        self.admission = Batches[Asked](cell.env, self._admit)
        self.outcomes = Batches[bool](cell.env, self._record, linger_s=outcomes.LINGER_S)
        self.relay = Batches[int](
            cell.env, self._publish, linger_s=usage_relay.LINGER_S, most=10_000
        )

    def call(self, worker: Callable[[], Steps]) -> Steps:
        """Make one call, from its arrival until its answer."""
        cell = self._cell
        began = cell.env.now
        is_hot = cell.rng.random() < cell.plan.hot_share
        yield from self.thread.work(cell.gateway_s() / 2)
        asked = Asked(cell.env.now, is_hot, cell.env.event())
        self.admission.add(asked)
        if not (yield asked.admitted):
            cell.statistics.refused += 1
            return
        self.open += 1
        called = cell.env.now
        yield from worker()
        worker_s = cell.env.now - called
        yield from self.thread.work(cell.gateway_s() / 2)
        if not self.alive:
            cell.statistics.failed += 1
            return
        cell.answered(began, worker_s)
        self.outcomes.add(is_hot)
        cell.report()

    def _admit(self, batch: list[Asked]) -> Steps:
        cell = self._cell
        late = [one for one in batch if cell.env.now - one.at >= admission.WAIT_S]
        wanted = [one for one in batch if cell.env.now - one.at < admission.WAIT_S]
        for one in late:
            one.admitted.succeed(False)
        yield from self._statement(len(wanted), any(one.is_hot for one in wanted))
        for one in wanted:
            one.admitted.succeed(cell.env.now - one.at < admission.WAIT_S)

    def _record(self, batch: list[bool]) -> Steps:
        yield from self._statement(len(batch), any(batch))
        self.open -= len(batch)
        for _ in batch:
            self.relay.add(self._cell.partition())

    def _statement(self, items: int, is_hot: bool) -> Steps:
        """Half of a pair: a call is admitted by one, and its outcome recorded by another."""
        cell = self._cell
        yield from self.thread.work(cell.costs.gateway.batch_us / 2e6)
        yield from cell.commit(
            _seconds(cell.costs.gateway_postgres, items) / 2, cell.hot_row if is_hot else None
        )

    def _publish(self, batch: list[int]) -> Steps:
        cell = self._cell
        yield from cell.stored(len(set(batch)), len(batch) * cell.costs.gateway_nats.item_us / 1e6)
        cell.published(batch)


class Cell:
    """One cell, and what is seen of it."""

    def __init__(
        self, env: simpy.Environment, costs: Measured, plan: Plan, rng: random.Random
    ) -> None:
        self.env, self.costs, self.plan, self.rng = env, costs, plan, rng
        cv = costs.waits.processor_cv
        self._shared = Cores(env, plan.shared_cores) if plan.shared_cores else None
        self.gateway_s: Draw = around(rng, costs.gateway.item_us / 1e6, cv)
        self._noise: Draw = around(rng, 1.0, cv)
        flush_s = around(rng, costs.waits.flush_ms / 1e3, costs.waits.flush_cv)
        self.disk = Disk(env, flush_s)
        self.postgres = self._shared or Cores(env, plan.postgres_cores)
        self.nats = self.thread()
        self._stream = Cores(env, 1)
        """One batch at a time is stored."""
        self.hot_row = simpy.Resource(env)
        self.gateways = [Gateway(self) for _ in range(plan.gateways)]
        self.routed = list(self.gateways)
        self.ingests = [Ingest(self) for _ in range(plan.ingests)]
        self.billings = [self.thread() for _ in range(plan.billings)]
        self.folds = [Fold(self, p) for p in range(PARTITIONS)] if plan.billings else []
        self.statistics = Statistics()
        self._reported = 0
        self._arrived = 0
        self.from_s = 0.0

    def thread(self) -> Thread:
        """Return a new process' thread."""
        return Thread(self.env, self._shared)

    def partition(self) -> int:
        """Return a user's partition."""
        return self.rng.randrange(PARTITIONS)

    def commit(self, seconds: float, row: simpy.Resource | None = None) -> Steps:
        """Run a statement of so much processor time, and wait until it is durable."""
        if row is not None:
            yield from alone(row, self.commit(seconds))
            return
        yield self.postgres.work(seconds * self._noise())
        yield self.disk.commit()
        if self.plan.network_ms:
            yield self.env.timeout(self.plan.network_ms / 1e3)

    def stored(self, messages: int, seconds: float) -> Steps:
        """Publish a batch of messages, and wait until the stream holds it."""
        waits = self.costs.waits
        yield from self.nats.work(seconds)
        yield self._stream.work((waits.stored_ms + messages * waits.message_ms) / 1e3)

    def arrive(self, worker: Callable[[], Steps]) -> simpy.Event:
        """Begin a call at the next gateway; one that is dead answers nothing."""
        self._arrived += 1
        gateway = self.routed[self._arrived % len(self.routed)]
        if not gateway.alive:
            self.statistics.failed += 1
            return self.env.timeout(0)
        return self.env.process(gateway.call(worker))

    def answered(self, began: float, worker_s: float) -> None:
        """Take note of an answer."""
        now = self.env.now
        if now < self.from_s:
            return
        self.statistics.done += 1
        self.statistics.latencies.append(now - began)
        self.statistics.added.append(now - began - worker_s)
        self.statistics.by_second.setdefault(int(now), []).append(now - began - worker_s)

    def report(self) -> None:
        """Let the Worker report its usage."""
        if self.ingests:
            self._reported += 1
            self.ingests[self._reported % len(self.ingests)].reports.add(self.partition())

    def published(self, partitions: list[int]) -> None:
        """Take note of facts that the stream holds."""
        if self.folds:
            for partition in partitions:
                self.folds[partition].add()

    def watch(self, every_s: float = 0.1) -> Steps:
        """Look at the backlogs time after time."""
        while True:
            yield self.env.timeout(every_s)
            waiting = sum(len(g.outcomes.waiting) + len(g.relay.waiting) for g in self.gateways)
            self.statistics.relay.append((self.env.now, waiting))
            self.statistics.fold.append((self.env.now, sum(f.waiting for f in self.folds)))

    def kill_gateway(self, at_s: float, noticed_s: float) -> Steps:
        """End a gateway; the others get its calls once that is noticed, and its facts later."""
        yield self.env.timeout(at_s)
        dead = self.gateways[0]
        dead.alive = False
        dead.outcomes.stopped = dead.relay.stopped = True
        yield self.env.timeout(noticed_s)
        self.routed.remove(dead)
        yield self.env.timeout(LEASE_S - noticed_s)
        self.routed[0].open += dead.open
        for _ in range(dead.open):
            self.routed[0].outcomes.add(False)
        for partition in dead.relay.waiting:
            self.routed[0].relay.add(partition)
        dead.relay.waiting.clear()

    def kill_postgres(self, at_s: float, away_s: float) -> Steps:
        """End Postgres; another takes its place after so many seconds."""
        yield self.env.timeout(at_s)
        self.disk.away_until_s = self.env.now + away_s

    def kill_billing(self, at_s: float) -> Steps:
        """End a billing process; its partitions rest until the others have them."""
        yield self.env.timeout(at_s)
        dead = self.billings[0]
        theirs = [fold for fold in self.folds if fold.process is dead]
        for fold in theirs:
            fold.process = None
        yield self.env.timeout(SHARE_S)
        living = self.billings[1:]
        for number, fold in enumerate(theirs):
            if living:
                fold.process = living[number % len(living)]


class Ingest:
    """One telemetry-ingest: a report costs its thread, and its batch is on the stream before it is
    answered.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._thread = cell.thread()
        self.reports = Batches[int](cell.env, self._publish)

    def _publish(self, batch: list[int]) -> Steps:
        cell = self._cell
        yield from self._thread.work(_seconds(cell.costs.ingest, len(batch)))
        yield from cell.stored(len(set(batch)), 0.0)
        cell.published(batch)


class Fold:
    """One partition's fold: batch after batch, with a pause where nothing more waits."""

    def __init__(self, cell: Cell, partition: int) -> None:
        self._cell = cell
        self.process: Thread | None = cell.billings[partition % len(cell.billings)]
        self.waiting = 0
        cell.env.process(self._run())

    def add(self) -> None:
        """Take note of one more fact."""
        self.waiting += 1

    def _run(self) -> Steps:
        cell = self._cell
        yield cell.env.timeout(cell.rng.random() * PAUSE_S)
        while True:
            if self.process is None or not self.waiting:
                yield cell.env.timeout(PAUSE_S)
                continue
            facts = min(self.waiting, BATCH)
            is_all = facts == self.waiting
            yield from self.process.work(_seconds(cell.costs.billing, facts))
            yield from cell.commit(_seconds(cell.costs.billing_postgres, facts))
            self.waiting -= facts
            if is_all:
                yield cell.env.timeout(PAUSE_S)


def _seconds(part: Part, items: int) -> float:
    return (part.item_us * items + part.batch_us) / 1e6
