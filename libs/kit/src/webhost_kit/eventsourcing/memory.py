"""The in-memory projection, for services that answer from memory.

Consumes: one stream, from the checkpoint that the service's own table was read at.
Guarantees: the fold sees every fact behind that checkpoint once, in order; `check` complains until
it has caught up, and again whenever the stream falls silent.
On replay: the fold must accept a version above the last one seen and skip the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from webhost_contracts.events.base import Event

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Checkpoint, StreamReader
from webhost_kit.errors import StreamDiverged, Unavailable
from webhost_kit.eventsourcing.facts import Fact, decoded

log = structlog.get_logger(__name__)

RETRY_S = 1.0

Load = Callable[[], Awaitable[Checkpoint | None]]
"""Reads the service's own table into the memory, where it is newer; returns its checkpoint."""


class InMemoryProjection:
    """Keeps one in-memory table up to date as long as it runs."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        subjects: Sequence[str],
        types: Mapping[str, type[Event]],
        fold: Callable[[Fact], None],
        load: Load,
    ) -> None:
        self._types = types
        self._fold = fold
        self._load = load
        self._stream = stream
        self._reader = StreamReader(bus, stream, subjects)
        self._loaded = False
        self._held_back: set[str | None] = set()

    def check(self) -> str | None:
        """Say what keeps the memory from being current."""
        return self._reader.check() if self._loaded else "not loaded"

    @property
    def usable(self) -> bool:
        """Say whether the memory has caught up and still hears from the stream."""
        return self._loaded and self._reader.usable

    async def run(self) -> None:
        """Load, then follow. Where the stream has diverged, wait until the table was made anew."""
        while True:
            after = await self._load_table()
            try:
                async for batch in self._reader.batches(after):
                    for one in decoded(batch.messages, self._types):
                        if isinstance(one, Fact):
                            self._fold_one(one)
                        else:
                            self._hold_back(one.aggregate_id, one.reason)
            except StreamDiverged as error:
                log.error("in-memory projection halted", stream=self._stream, reason=str(error))
                while await self._load_table() == after:  # noqa: ASYNC110 - made by others
                    await asyncio.sleep(RETRY_S)

    async def _load_table(self) -> Checkpoint | None:
        while True:
            try:
                after = await self._load()
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            else:
                self._loaded = True
                return after

    def _fold_one(self, fact: Fact) -> None:
        # Its table's projection parks what it cannot fold, and what follows: so does the memory.
        if fact.envelope.aggregate_id in self._held_back:
            return
        try:
            self._fold(fact)
        except Exception as error:
            self._hold_back(fact.envelope.aggregate_id, repr(error))

    def _hold_back(self, aggregate_id: str | None, reason: str) -> None:
        self._held_back.add(aggregate_id)
        log.error("event not folded into memory", aggregate=aggregate_id, reason=reason)
