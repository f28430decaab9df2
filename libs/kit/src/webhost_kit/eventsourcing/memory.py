"""The in-memory projection, for services that answer from memory.

Consumes: one stream, from the checkpoint that the service's own table was read at.
Guarantees: the fold sees every fact behind that checkpoint once, in order; `check` complains until
it has caught up, and again whenever the stream falls silent. An aggregate of which the table's
projection has parked an event stays as it was, until that was replayed.
A table that is older than the memory takes nothing from it, as long as the stream goes on. Where
the stream is not the one that was followed, what was known may never have happened: the memory is
not usable until it holds what the table holds and nothing else, and has caught up from there.
On replay: the fold must accept a version above the last one seen and skip the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

import structlog
from nats.errors import Error as NatsError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events.base import Event

from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Batch, StreamReader
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, Unavailable
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.eventsourcing.facts import Fact, decoded
from webhost_kit.eventsourcing.parked import parked_aggregates
from webhost_kit.process.metrics import ReadGauge
from webhost_kit.tasks import run_together

log = structlog.get_logger(__name__)

RETRY_S = 1.0
RELEASE_S = 5.0
"""How often a memory that holds an aggregate back checks whether it is still parked."""

_usable = ReadGauge(
    "webhost_memory_usable",
    "1 while what is answered from memory is current; otherwise requests are refused",
    ["projection"],
)
_age = ReadGauge(
    "webhost_memory_age_seconds",
    "Seconds since the memory last heard from its stream, which says something every second",
    ["projection"],
)

Load = Callable[[AsyncConnection, bool], Awaitable[None]]
"""Reads the rows of the projection's table into the memory, where they are newer; if the second
argument is true, in place of all that it holds, in one step."""


class InMemoryProjection:
    """Keeps in memory, as long as it runs, what the projection of this name keeps in a table."""

    def __init__(
        self,
        name: str,
        database: Database,
        bus: Bus,
        stream: str,
        subjects: Sequence[str],
        types: Mapping[str, type[Event]],
        fold: Callable[[Fact], None],
        load: Load,
    ) -> None:
        self._name = name
        self._database = database
        self._types = types
        self._fold = fold
        self._load = load
        self._reader = StreamReader(bus, stream, subjects)
        self._known: Checkpoint | None = None
        self._held_back: set[str] = set()
        _usable.read(lambda: self.usable, name)
        _age.read(lambda: self._reader.silent_s, name)

    def check(self) -> str | None:
        """Say what keeps the memory from being current."""
        return self._reader.check()

    @property
    def usable(self) -> bool:
        """Say whether the memory has caught up and still receives from the stream."""
        return self._reader.usable

    async def run(self) -> None:
        """Load, then follow; load again after a replay of what was parked, or on another stream."""
        while True:
            after = await self._load_table()
            await run_together(self._follow(after), self._until_released())

    async def _follow(self, after: Checkpoint | None) -> None:
        """Follow the stream. Where it has diverged, return once the table is one of that stream."""
        try:
            async with aclosing(self._reader.batches(after, known=self._known)) as batches:
                async for batch in batches:
                    self._fold_batch(batch)
                    self._known = _later(self._known, batch.checkpoint)
        except StreamDiverged as error:
            log.error("in-memory projection halted", projection=self._name, reason=str(error))
            self._known = None
            while not await self._table_fits():  # noqa: ASYNC110 - made by others
                await asyncio.sleep(RETRY_S)
            log.info("in-memory projection starts again from its table", projection=self._name)

    async def _table_fits(self) -> bool:
        """Say whether the table is one of the stream that is there now."""
        try:
            async with self._database.transaction() as connection:
                checkpoint = await read_checkpoint(connection, self._name)
            await self._reader.verified(checkpoint)
        except (StreamDiverged, Unavailable, NatsError, TimeoutError, OSError):
            return False
        return True

    async def _until_released(self) -> None:
        """Return when a held-back aggregate is no longer parked, or not parked yet."""
        while True:
            await asyncio.sleep(RELEASE_S)
            if not self._held_back:
                continue
            try:
                async with self._database.transaction() as connection:
                    parked = await parked_aggregates(connection, self._name)
            except Unavailable:
                continue
            if self._held_back - parked:
                return

    async def _load_table(self) -> Checkpoint | None:
        while True:
            try:
                async with self._database.snapshot() as connection:
                    await self._load(connection, self._known is None)
                    after = await read_checkpoint(connection, self._name)
                    self._held_back = await parked_aggregates(connection, self._name)
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            else:
                self._known = _later(self._known, after)
                return after

    def _fold_batch(self, batch: Batch) -> None:
        for one in decoded(batch.messages, self._types):
            if isinstance(one, Fact):
                self._fold_one(one)
            elif one.aggregate_id is not None:
                self._hold_back(one.aggregate_id, one.reason)
            elif one.refused:
                log.error("fact refused", projection=self._name, reason=one.reason)

    def _fold_one(self, fact: Fact) -> None:
        # Its table's projection parks what it cannot fold, and what follows: so does the memory.
        if fact.envelope.aggregate_id in self._held_back:
            return
        try:
            self._fold(fact)
        except Exception as error:
            self._hold_back(fact.envelope.aggregate_id, repr(error))

    def _hold_back(self, aggregate_id: str, reason: str) -> None:
        self._held_back.add(aggregate_id)
        log.error("event not folded into memory", aggregate=aggregate_id, reason=reason)


def _later(one: Checkpoint | None, other: Checkpoint | None) -> Checkpoint | None:
    if one is None or other is None:
        return one or other
    return other if other.sequence >= one.sequence else one
