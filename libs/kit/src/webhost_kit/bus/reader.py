"""Reads a stream in order from a checkpoint, without gaps.

Consumes: one stream, through an ephemeral consumer that costs nothing to lose.
Guarantees: every message after the checkpoint once, in the stream's order; after a gap in the
deliveries, a missed heartbeat or a lost consumer, a new consumer starts where this one stopped.
What there is to read is the word of the server that leads the stream: a consumer may be at another
one that still fetches what it lacks, and hear of nothing.
A stream that is not the one the checkpoint was taken on raises StreamDiverged. One that is missing
is waited for.
Of several subjects of EVENTS the server selects what they have in common, and the reader the rest:
a consumer with several filters costs the server more for each message, the more subjects the stream
has (20,000: a thousand messages a second, where one filter gives twenty thousand).
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import monotonic

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from webhost_contracts.subjects import EVENTS, MESSAGE_ID_HEADER, TYPE_HEADER

from webhost_kit.bus import filters
from webhost_kit.bus.checkpoint import Checkpoint, name_at, name_of, verified
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.contact import require_led
from webhost_kit.bus.pull import SILENCE_S, Pull
from webhost_kit.errors import StreamDiverged, StreamMissing

log = structlog.get_logger(__name__)

INACTIVE_S = 60.0
COUNTING_S = 1.0
"""How long a consumer is kept that only counts."""
RETRY_S = 0.5
PLACES = 20
"""How often a consumer is made that is to be at the leader: each is at any of the servers."""
IDLE_ADVANCE_S = 60.0
"""A reader that gets nothing moves past what its filter skips, so that it does not seem behind."""


@dataclass(frozen=True)
class Recorded:
    """One message as a stream holds it. The type is None where the publisher named none."""

    sequence: int
    recorded_at_ms: int
    subject: str
    type_name: str | None
    message_id: str | None
    body: bytes


@dataclass(frozen=True)
class Batch:
    """Messages in order, the checkpoint after the last, and how many more are pending."""

    messages: Sequence[Recorded]
    checkpoint: Checkpoint
    pending: int


class StreamReader:
    """Follows one stream. `check` is for readiness: it complains until the reader caught up."""

    def __init__(
        self, bus: Bus, stream: str, subjects: Sequence[str], *, batch_size: int = 500
    ) -> None:
        self._bus = bus
        self._stream = stream
        # USAGE has few subjects, and nearly all of it is for others.
        several = list(dict.fromkeys(subjects))
        self._filters = [filters.in_common(several)] if stream == EVENTS else several
        self._is_wanted = filters.pattern(subjects).fullmatch
        self._batch_size = batch_size
        self._heard_at = monotonic()
        self._problem: str | None = "starting"
        self._caught_up = False

    @property
    def usable(self) -> bool:
        """Say whether it caught up and has heard from the stream ever since.

        A backlog of a moment makes `check` complain; it does not make what was read unusable.
        After an interruption, or on another stream, it is usable once it has caught up again.
        """
        heard = monotonic() - self._heard_at <= SILENCE_S
        return self._caught_up and heard and self._unled() is None

    def check(self) -> str | None:
        """Say what is wrong: away, silent, diverged, or still catching up."""
        if (unled := self._unled()) is not None:
            return unled
        if self._problem is None and monotonic() - self._heard_at > SILENCE_S:
            return "silent"
        return self._problem

    @property
    def silent_s(self) -> float:
        """Return how long ago it heard from the stream, and from who leads it."""
        unheard_s = self._bus.contact.unheard_s(self._stream)
        return max(monotonic() - self._heard_at, unheard_s)

    async def count_behind(self, checkpoint: Checkpoint | None) -> int:
        """Return how many messages there are behind this place. Raises NatsError, TimeoutError."""
        return (await self._at_leader(0 if checkpoint is None else checkpoint.sequence))[1]

    def interruption(self) -> str | None:
        """Say why the reader receives nothing from the stream; being behind is no interruption."""
        problem = self.check()
        return problem if problem == "silent" or (problem or "").startswith("away") else None

    async def batches(
        self, after: Checkpoint | None, *, known: Checkpoint | None = None
    ) -> AsyncGenerator[Batch]:
        """Yield batches behind `after` (None: from the start), without end.

        `known` is a later place that was read before: it has to be on this stream as well.
        An empty batch comes first and says how much is waiting. Raises StreamDiverged.
        """
        checkpoint = after
        while True:
            try:
                checkpoint = await self.verified(checkpoint)
                if known is not None and known.sequence > checkpoint.sequence:
                    await self.verified(known)
                async with aclosing(self._consume(checkpoint)) as batches:
                    async for batch in batches:
                        yield batch
                        checkpoint = batch.checkpoint
                        self._problem = None if batch.pending == 0 else f"behind by {batch.pending}"
                        self._caught_up = self._caught_up or batch.pending == 0
            except StreamDiverged as error:
                self._problem = f"halted: {error}"
                self._caught_up = False
                raise
            except (StreamMissing, NatsError, TimeoutError, OSError) as error:
                self._problem = f"away: {str(error) or repr(error)}"
                self._caught_up = False
                log.warning("reader interrupted", stream=self._stream, error=repr(error))
                await asyncio.sleep(RETRY_S)

    async def verified(self, checkpoint: Checkpoint | None) -> Checkpoint:
        """Return where to begin. Raises StreamDiverged where it is another one, StreamMissing."""
        return await verified(self._bus, self._stream, checkpoint)

    async def _at_leader(self, after: int) -> tuple[int, int]:
        """Return the stream's last sequence, and how many messages are for us behind this place.

        Both are of the server that leads it. Raises NatsError, TimeoutError.
        """
        for _ in range(PLACES):
            info = require_led(await self._bus.js.stream_info(self._stream))
            config = self._config(after, COUNTING_S)
            counting = await self._bus.js.add_consumer(self._stream, config)
            place = _place(counting)
            if place is None or (info.cluster is not None and place == info.cluster.leader):
                return info.state.last_seq, counting.num_pending or 0
        raise NatsError(f"no consumer is at the leader of {self._stream}")

    async def _advanced(self, checkpoint: Checkpoint) -> tuple[Checkpoint, int]:
        """Return the checkpoint after all that the stream holds, if none of it is for us, and how
        much of it is.
        """
        last, waiting = await self._at_leader(checkpoint.sequence)
        if waiting or last <= checkpoint.sequence:
            return checkpoint, waiting
        name = await name_at(self._bus, self._stream, last)
        if name is not None:
            checkpoint = replace(checkpoint, sequence=last, message_id=name)
        return checkpoint, 0

    async def _consume(self, checkpoint: Checkpoint) -> AsyncGenerator[Batch]:
        config = self._config(checkpoint.sequence, INACTIVE_S)
        consumer = await self._bus.js.add_consumer(self._stream, config)
        # Of a server that is alone, what it says with each delivery is all there is.
        in_cluster = _place(consumer) is not None
        owed = (await self._at_leader(checkpoint.sequence))[1] if in_cluster else 0
        self._heard_at = monotonic()
        pending = max(consumer.num_pending or 0, owed)
        yield Batch((), checkpoint, pending)
        pull = Pull(self._bus, self._stream, consumer.name, self._batch_size)
        try:
            await pull.start()
            delivered = 0
            idle_since = monotonic()
            while True:
                messages = await pull.next(self._batch_size)
                self._heard_at = pull.heard_at
                if not messages:
                    if monotonic() - idle_since > IDLE_ADVANCE_S:
                        idle_since = monotonic()
                        checkpoint, pending = await self._advanced(checkpoint)
                        owed = delivered + pending if in_cluster else 0
                        yield Batch((), checkpoint, pending)
                    continue
                for message in messages:
                    delivered += 1
                    if message.metadata.sequence.consumer != delivered:
                        raise NatsError("a delivery is missing")
                read = [_recorded(message) for message in messages]
                recorded = [one for one in read if self._is_wanted(one.subject)]
                last = read[-1]
                name = name_of(last.message_id, last.body)
                checkpoint = replace(checkpoint, sequence=last.sequence, message_id=name)
                left = max(messages[-1].metadata.num_pending, owed - delivered)
                # What is not for us is worth no transaction, but the end of what we waited for.
                caught_up = left == 0 and pending > 0
                if recorded or caught_up or monotonic() - idle_since > IDLE_ADVANCE_S:
                    idle_since, pending = monotonic(), left
                    yield Batch(recorded, checkpoint, pending)
        finally:
            await pull.stop()

    def _unled(self) -> str | None:
        """Say that the server which delivers is cut off from who leads the stream."""
        return self._bus.contact.problem_with(self._stream)

    def _config(self, after: int, inactive_s: float) -> ConsumerConfig:
        return ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            filter_subjects=self._filters,
            inactive_threshold=inactive_s,
            mem_storage=True,
            num_replicas=1,
        )


def _place(consumer: ConsumerInfo) -> str | None:
    """Return which server of a cluster a consumer is at; None where there is no cluster."""
    return consumer.cluster.leader if consumer.cluster is not None else None


def _recorded(message: Msg) -> Recorded:
    headers = message.headers or {}
    metadata = message.metadata
    return Recorded(
        sequence=metadata.sequence.stream,
        recorded_at_ms=int(metadata.timestamp.timestamp() * 1000),
        subject=message.subject,
        type_name=headers.get(TYPE_HEADER),
        message_id=headers.get(MESSAGE_ID_HEADER),
        body=message.data,
    )
