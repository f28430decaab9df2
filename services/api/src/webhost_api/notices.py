"""Notices of counted invocations, for the streams that are open in this process.

Consumes: `invocation.finished` on USAGE, from now on, in the partitions of the users who have a
stream open; nothing while nobody has. Emits: events without an id.
Guarantees: none. A notice may be missing (the stream was away, or the process changed what it
follows) or come twice (a packet was stored twice); usage is what billing counts.
"""

import asyncio
from contextlib import aclosing

import structlog
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from webhost_contracts import subjects
from webhost_contracts.events import InvocationFinished
from webhost_contracts.events.base import by_name
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import StreamReader
from webhost_kit.errors import StreamDiverged
from webhost_kit.eventsourcing.facts import Fact, facts
from webhost_kit.tasks import run_together

from webhost_api.event_stream import frame
from webhost_api.feed import Feed

log = structlog.get_logger(__name__)

RETRY_S = 1.0

_TYPES = by_name(InvocationFinished)


class Notices:
    """Passes on what happens to the users of a feed."""

    def __init__(self, bus: Bus, feed: Feed) -> None:
        self._bus = bus
        self._feed = feed

    async def run(self) -> None:
        """Follow whatever partitions are wanted, as long as the process lives."""
        while True:
            partitions = self._wanted()
            await run_together(self._follow(partitions), self._until_others(partitions))

    def _wanted(self) -> frozenset[int]:
        return frozenset(map(subjects.partition_of, self._feed.users))

    async def _until_others(self, partitions: frozenset[int]) -> None:
        """Return when a partition is wanted that is not followed, or none is wanted any more."""
        while True:
            wanted = self._wanted()
            if not wanted <= partitions or (partitions and not wanted):
                return
            self._feed.users_changed.clear()
            await self._feed.users_changed.wait()

    async def _follow(self, partitions: frozenset[int]) -> None:
        if not partitions:
            await asyncio.Event().wait()
        filters = [subjects.usage_packets(each, subjects.GATEWAY) for each in sorted(partitions)]
        while True:
            try:
                reader = StreamReader(self._bus, subjects.USAGE, filters)
                async with aclosing(reader.batches(await self._now())) as batches:
                    async for batch in batches:
                        for fact in facts(batch.messages, _TYPES):
                            self._pass_on(fact)
            except (StreamDiverged, NotFoundError, NatsError, TimeoutError, OSError) as error:
                log.warning("no notices of invocations", error=repr(error))
                await asyncio.sleep(RETRY_S)

    async def _now(self) -> Checkpoint:
        info = await self._bus.js.stream_info(subjects.USAGE)
        return Checkpoint(str(info.created), info.state.last_seq, None)

    def _pass_on(self, fact: Fact) -> None:
        event, envelope = fact.event, fact.envelope
        if not isinstance(event, InvocationFinished):
            return
        data = {
            "outcome": event.outcome,
            "wallMs": event.wall_ms,
            "errors": event.errors,
            "errorClass": event.error_class,
        }
        notice = {
            "id": envelope.event_id,
            "type": event.type_name(),
            "agentId": event.agent_id,
            "atMs": envelope.occurred_at_ms,
            "deploymentId": event.deployment_id,
            "invocationId": envelope.aggregate_id,
            "data": {name: value for name, value in data.items() if value is not None},
        }
        self._feed.notify(envelope.user_id, event.agent_id, frame(event.type_name(), notice))
