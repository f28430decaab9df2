"""How far a projection is behind its stream, for the process that folds it.

Guarantees: while a batch is folded, and while the projection is halted, the lag goes on growing:
the seconds by the clock, the messages every RECOUNT_S by the stream. Who does not fold says
nothing. While nothing is heard from the stream, how many messages there are is not known, and the
oldest may have waited since then.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from time import monotonic

from nats.errors import Error as NatsError

from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.reader import Batch, StreamReader
from webhost_kit.clock import now_ms
from webhost_kit.process.metrics import ReadGauge
from webhost_kit.tasks import cancel

RECOUNT_S = 5.0

_LABELS = ("projection", "partition")
_messages = ReadGauge(
    "webhost_projector_lag_messages",
    "Messages of the stream that are not folded yet, as far as the process that folds has seen; "
    "none while it hears nothing; `all` where a projection has no partitions",
    _LABELS,
)
_seconds = ReadGauge(
    "webhost_projector_lag_seconds",
    "Age of the oldest message that is not folded yet, 0 where all are; how long nothing was heard "
    "from the stream, where that is so",
    _LABELS,
)
_halted = ReadGauge(
    "webhost_projector_halted",
    "1 while a projection is halted: its stream is not the one that it folded, and an operator has "
    "to decide",
    _LABELS,
)


class Lag:
    """The lag of one partition of a projection."""

    def __init__(self, projection: str, partition: str, reader: StreamReader) -> None:
        self._reader = reader
        self._measures = False
        self._messages: int | None = None
        self._since_ms: int | None = None
        """Since when the oldest message waits."""
        self._checkpoint: Checkpoint | None = None
        self._counted_at = 0.0
        self._works = False
        self._halted = False
        _messages.read(self._known_messages, projection, partition)
        _seconds.read(lambda: self._waited_s() if self._measures else None, projection, partition)
        _halted.read(lambda: self._halted if self._measures else None, projection, partition)

    @asynccontextmanager
    async def measured(self) -> AsyncGenerator[None]:
        """Measure within this block: here is who folds."""
        self._measures, self._works, self._halted = True, False, False
        self._messages, self._since_ms = None, None
        counting = asyncio.create_task(self._count_again())
        try:
            yield
        finally:
            self._measures = False
            await cancel(counting)

    def folding(self, batch: Batch, behind: Checkpoint | None) -> None:
        """Take note of a batch that is folded now, behind this checkpoint."""
        self._works, self._checkpoint, self._counted_at = True, behind, monotonic()
        self._messages = len(batch.messages) + batch.pending
        if batch.messages:
            self._since_ms = batch.messages[0].recorded_at_ms
        elif batch.pending and self._since_ms is None:
            self._since_ms = now_ms()

    def folded(self, batch: Batch) -> None:
        """Take note that it was committed."""
        self._works = False
        self._messages = batch.pending
        if not batch.pending:
            self._since_ms = None
        elif batch.messages:
            self._since_ms = batch.messages[-1].recorded_at_ms

    def halt(self, behind: Checkpoint | None) -> None:
        """Take note that nothing is folded until an operator has decided."""
        self._works, self._halted, self._checkpoint = True, True, behind
        self._since_ms = self._since_ms or now_ms()

    def go_on(self) -> None:
        """Take note that an operator has."""
        self._works, self._halted, self._since_ms = False, False, None

    def _known_messages(self) -> int | None:
        return self._messages if self._measures and not self._reader.interruption() else None

    def _waited_s(self) -> float:
        waited_s = 0.0 if self._since_ms is None else (now_ms() - self._since_ms) / 1000
        unheard_s = 0.0 if self._known_messages() is not None else self._reader.silent_s
        return max(waited_s, unheard_s, 0.0)

    async def _count_again(self) -> None:
        while True:
            await asyncio.sleep(RECOUNT_S)
            if self._works and monotonic() - self._counted_at >= RECOUNT_S:
                with suppress(NatsError, TimeoutError, OSError):
                    checkpoint, self._counted_at = self._checkpoint, monotonic()
                    self._messages = await self._reader.count_behind(checkpoint)
