"""The in-memory projection, for services that answer from memory.

Consumes: one stream, from the checkpoint that the service's own table was read at.
Guarantees: the fold sees every fact behind that checkpoint once, in order; `check` complains
until it has caught up, and again whenever the stream falls silent.
On replay: the fold must accept a version above the last one seen and skip the rest.
"""

from collections.abc import Callable, Mapping, Sequence

import structlog
from webhost_contracts.events.base import Event

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Checkpoint, StreamReader
from webhost_kit.errors import StreamDiverged
from webhost_kit.eventsourcing.facts import Fact, facts

log = structlog.get_logger(__name__)


class InMemoryProjection:
    """Keeps one in-memory table up to date, from the checkpoint `after`."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        subjects: Sequence[str],
        types: Mapping[str, type[Event]],
        fold: Callable[[Fact], None],
        after: Checkpoint | None,
    ) -> None:
        self._after = after
        self._types = types
        self._fold = fold
        self._stream = stream
        self._reader = StreamReader(bus, stream, subjects)

    def check(self) -> str | None:
        """Say what keeps the memory from being current."""
        return self._reader.check()

    @property
    def usable(self) -> bool:
        """Say whether the memory caught up once and still hears from the stream."""
        return self._reader.usable

    async def run(self) -> None:
        """Fold for ever. Returns only when the stream is not the one of the checkpoint."""
        try:
            async for batch in self._reader.batches(self._after):
                for fact in facts(batch.messages, self._types):
                    self._fold(fact)
        except StreamDiverged as error:
            log.error("in-memory projection halted", stream=self._stream, reason=str(error))
