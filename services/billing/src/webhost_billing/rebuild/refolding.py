"""One process of a rebuild: folds its partitions into the new generation, up to given targets.

Run by `process_pool` as `python -m webhost_billing.rebuild GENERATION PARTITION…`, in the
service's own environment.

Consumes: its partitions of USAGE from where the generation stands; on standard input one line of
Targets after the other. Emits: lines of Progress on standard output.
Guarantees: what a line says is committed; memory does not grow with the stream. When standard
input ends, because the rebuild ended or its process died, it ends at once.
On replay (it was killed): it goes on behind what is committed.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing

import msgspec
from webhost_contracts import subjects
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus, connect
from webhost_kit.bus.reader import Recorded, StreamReader
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, Unavailable
from webhost_kit.eventsourcing.facts import facts
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.process.garbage import collect_less
from webhost_kit.process.observability import configure_logging
from webhost_kit.process.settings import load

from webhost_billing.charging import Rules
from webhost_billing.model import TYPES
from webhost_billing.rebuild import progress
from webhost_billing.rebuild.scope import Scope
from webhost_billing.seals import store as seals
from webhost_billing.seals.decisions import NO_SEALS
from webhost_billing.settings import Settings
from webhost_billing.usage import fold_into, usage_reports

NAME = "billing"
"""The service's own name, since this process shares its permissions on the bus."""
BATCH = 1_000
SILENCE_S = 30.0

Targets = dict[int, int]
"""By partition, the sequence up to which it is to be folded."""


class Progress(msgspec.Struct, omit_defaults=True):
    """How many more messages were folded; whether the targets are reached; what went wrong."""

    messages: int = 0
    reached: bool = False
    failed: str | None = None


class Refolding:
    """Where each partition stands, and how to take it further."""

    def __init__(
        self,
        bus: Bus,
        database: Database,
        rules: Rules,
        generation: int,
        scope: Scope,
        at: dict[int, int],
    ) -> None:
        self._bus = bus
        self._database = database
        self._rules = rules
        self._generation = generation
        self._scope = scope
        self._at = at
        self._seals = NO_SEALS

    async def fold_up_to(self, targets: Targets) -> None:
        """Fold every partition up to its target.

        Raises StreamDiverged when the stream falls silent before that.
        """
        behind = {p: target for p, target in targets.items() if self._at[p] < target}
        end = await self._end(behind)
        if end > 0:
            names = [subjects.usage_partition(partition) for partition in behind]
            reader = StreamReader(self._bus, subjects.USAGE, names, batch_size=BATCH)
            info = await self._bus.js.stream_info(subjects.USAGE)
            # What was closed up to the targets was committed with them.
            async with self._database.transaction() as connection:
                self._seals = await seals.applied(connection, str(info.created))
            first = min(self._at[p] for p in behind)
            # What expired since the rebuild began is not needed: `scope` saw to that.
            first = first if info.state.first_seq <= first + 1 else 0
            start = Checkpoint(str(info.created), first, None)
            async with aclosing(reader.batches(start)) as batches:
                at = 0
                while at < end:
                    try:
                        async with asyncio.timeout(SILENCE_S):
                            batch = await anext(batches)
                    except TimeoutError as error:
                        raise StreamDiverged(f"nothing arrived after {at} of {end}") from error
                    await self._fold(self._wanted(batch.messages, behind))
                    at = batch.checkpoint.sequence
        self._at |= behind

    async def _end(self, behind: Mapping[int, int]) -> int:
        """Return the sequence at which the last message that is needed has been seen."""
        end = 0
        for partition, target in behind.items():
            name = subjects.usage_partition(partition)
            last = await self._bus.last_sequence(subjects.USAGE, name)
            if last > self._at[partition]:
                end = max(end, min(last, target))
        return end

    def _wanted(
        self, messages: Sequence[Recorded], behind: Mapping[int, int]
    ) -> Sequence[Recorded]:
        """Return what of these is new to its partition, and not beyond its target."""
        return [
            message
            for message in messages
            for partition in [subjects.packet_partition(message.subject)]
            if self._at[partition] < message.sequence <= behind[partition]
        ]

    async def _fold(self, messages: Sequence[Recorded]) -> None:
        if not messages:
            return
        found = facts(messages, TYPES)
        if (user_id := self._scope.user_id) is not None:
            found = [fact for fact in found if fact.envelope.user_id == user_id]
        reports = usage_reports(found)
        async with self._database.transaction() as connection:
            await fold_into(connection, self._generation, reports, self._rules, self._seals)
            await progress.save(connection, self._generation, _folded(messages))
        crash_point("rebuild.folded")
        _say(Progress(messages=len(messages)))


async def main(generation: int, partitions: Sequence[int]) -> None:
    """Fold up to each line of targets, until there are no more."""
    settings = load(Settings, "webhost-billing")
    configure_logging(NAME, log_format=settings.log_format, level=settings.log_level)
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    bus = await connect(settings.nats_url.get_secret_value(), NAME, replicas=settings.nats_replicas)
    async with database.transaction() as connection:
        scope, at = await progress.read(connection, generation, partitions)
    refolding = Refolding(bus, database, settings.rules(), generation, scope, at)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    collect_less()
    async with asyncio.TaskGroup() as group:
        while line := await lines.readline():
            group.create_task(_reach(refolding, msgspec.json.decode(line, type=Targets)))
        # Even in the middle of a batch: its parent is gone, so nobody reads the outcome.
        os._exit(0)


async def _reach(refolding: Refolding, targets: Targets) -> None:
    try:
        await refolding.fold_up_to(targets)
    except (StreamDiverged, Unavailable) as error:
        _say(Progress(failed=str(error)))
    except Exception as error:
        _say(Progress(failed=repr(error)))
        raise
    else:
        _say(Progress(reached=True))


def _folded(messages: Sequence[Recorded]) -> dict[int, tuple[int, int]]:
    """Return by partition the last sequence, and how many messages there are."""
    found: dict[int, tuple[int, int]] = {}
    for message in messages:
        partition = subjects.packet_partition(message.subject)
        found[partition] = (message.sequence, found.get(partition, (0, 0))[1] + 1)
    return found


def _say(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()
