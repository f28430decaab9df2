"""Closes periods in partitions that nothing comes to any more.

Consumes: the stream's newest timestamp, whichever partition it is of, and the partitions'
checkpoints. Emits: seals, as the fold does (see `store`).
Guarantees: a partition is closed where everything before that timestamp has been folded. The fold
of a message that comes meanwhile waits for this transaction, and finds the period closed.
On replay: a period that is closed stays where it was closed.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Database
from webhost_kit.errors import CheckpointMoved
from webhost_kit.eventsourcing.checkpoints import read_checkpoint, require_checkpoint
from webhost_kit.periodic import every

from webhost_billing import generations
from webhost_billing.charging import Rules
from webhost_billing.partitions import checkpoint_name
from webhost_billing.seals import decisions, store

EVERY_S = 60.0


@dataclass(frozen=True)
class _Newest:
    sequence: int
    recorded_at_ms: int


class IdlePartitions:
    """Closes what is due in partitions without new messages, in one process at a time."""

    def __init__(self, database: Database, bus: Bus, rules: Rules) -> None:
        self._database = database
        self._bus = bus
        self._delay_ms = rules.seal_delay_ms

    async def run(self) -> None:
        """Close as long as the process lives."""
        await every(EVERY_S, self.once, "idle partitions", alone_at=self._database)

    async def once(self) -> None:
        """Close every partition that has come to a seal without a message to show it."""
        info = await self._bus.js.stream_info(subjects.USAGE)
        if info.state.messages == 0:
            return
        found = await self._bus.js.get_msg(subjects.USAGE, info.state.last_seq)
        if found.time is None:
            return
        newest = _Newest(info.state.last_seq, int(found.time.timestamp() * 1000))
        for partition in range(subjects.PARTITIONS):
            await self._database.retry_conflicts(
                partial(self._close, partition, str(info.created), newest)
            )

    async def _close(
        self, partition: int, created_at: str, newest: _Newest, connection: AsyncConnection
    ) -> None:
        place = await store.load_place(connection, partition, created_at)
        if decisions.due_when_idle(place, newest, 0, self._delay_ms) is None:
            return
        checkpoint = await self._locked(connection, partition)
        if checkpoint is None or checkpoint.stream_created_at not in ("", created_at):
            return
        name = subjects.usage_partition(partition)
        if await self._bus.last_sequence(subjects.USAGE, name) > checkpoint.sequence:
            return
        live = await generations.hold(connection)
        place = await store.load_place(connection, partition, created_at)
        seal = decisions.due_when_idle(place, newest, checkpoint.sequence, self._delay_ms)
        if seal is not None:
            await store.apply(connection, live, seal, place.through, created_at)

    async def _locked(self, connection: AsyncConnection, partition: int) -> Checkpoint | None:
        """Return the partition's checkpoint, which the fold cannot move until this ends."""
        name = checkpoint_name(partition)
        found = await read_checkpoint(connection, name, lock=True)
        if found is None:
            with suppress(CheckpointMoved):
                await require_checkpoint(connection, name, None)
            found = await read_checkpoint(connection, name, lock=True)
        return found
