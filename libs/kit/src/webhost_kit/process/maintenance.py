"""What every service does for an operator: show and reset projections, replay parked events,
republish its facts.

Consumes: `rpc.<service>.<verb>` (see `webhost_contracts.maintenance`); of several replicas, one
replies. Emits: replies. Guarantees: an unreadable request changes nothing, nor does one that comes
past its deadline.
On a repeat: every request may be repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from webhost_contracts import maintenance, wire
from webhost_contracts.maintenance import (
    Nothing,
    ParkedEntry,
    ParkedReply,
    ParkedRequest,
    ProjectionRequest,
    ProjectionsReply,
    ProjectionState,
    ReplayParkedReply,
    ReplayReply,
    RepublishRequest,
)
from webhost_contracts.wire import Wire

from webhost_kit import deadline
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Database
from webhost_kit.errors import StreamDiverged, TooLate, Unavailable
from webhost_kit.eventsourcing.checkpoints import read_checkpoint
from webhost_kit.eventsourcing.own_facts import OwnFacts
from webhost_kit.eventsourcing.parked import count_parked, list_parked
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.tasks import cancel

log = structlog.get_logger(__name__)

LISTED = 500
SHOWN_BYTES = 256 * 1024
"""Both keep a reply well below the maximum size of a message."""

_REFUSALS = (
    msgspec.DecodeError,
    Unavailable,
    StreamDiverged,
    NatsError,
    TimeoutError,
    OSError,
)

R = TypeVar("R", bound=Wire)


class Maintenance:
    """Takes an operator's requests to one service."""

    def __init__(
        self,
        service: str,
        bus: Bus,
        database: Database,
        projectors: Sequence[Projector],
        own_facts: OwnFacts | None = None,
    ) -> None:
        self._service = service
        self._bus = bus
        self._database = database
        own = [own_facts.projector] if own_facts is not None else []
        self._projectors = {projector.name: projector for projector in [*own, *projectors]}
        self._own_facts = own_facts
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve requests for the lifetime of the process."""
        await self._serve(maintenance.PROJECTIONS, Nothing, self._on_projections)
        await self._serve(maintenance.REPLAY, ProjectionRequest, self._on_replay)
        await self._serve(maintenance.PARKED, ParkedRequest, self._on_parked)
        await self._serve(maintenance.REPLAY_PARKED, ProjectionRequest, self._on_replay_parked)
        if self._own_facts is not None:
            await self._serve(maintenance.REPUBLISH, RepublishRequest, self._on_republish)
        try:
            await asyncio.Event().wait()
        finally:
            await cancel(*self._running)

    async def _serve(
        self, verb: str, kind: type[R], handle: Callable[[R, Msg], Awaitable[None]]
    ) -> None:
        async def answer(message: Msg) -> None:
            try:
                deadline.require_in_time(message.headers)
                await handle(wire.decode(message.data, kind), message)
            except TooLate as error:
                log.warning("maintenance not done", verb=verb, error=str(error))
            except _REFUSALS as error:
                await _reply(message, ReplayReply(refused=str(error) or type(error).__name__))
            except Exception as error:
                log.exception("maintenance failed", verb=verb)
                await _reply(message, ReplayReply(refused=f"failed: {type(error).__name__}"))

        async def on_message(message: Msg) -> None:
            # Handled in the background: a slow request does not delay others.
            task = asyncio.create_task(answer(message))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        subject = maintenance.subject(self._service, verb)
        await self._bus.client.subscribe(subject, queue=subject, cb=on_message)

    async def _on_projections(self, _request: Nothing, message: Msg) -> None:
        states = [await self._state_of(projector) for projector in self._projectors.values()]
        await _reply(message, ProjectionsReply(projections=tuple(states)))

    async def _state_of(self, projector: Projector) -> ProjectionState:
        async with self._database.transaction() as connection:
            checkpoint = await read_checkpoint(connection, projector.name)
            parked = await count_parked(connection, projector.name)
        return ProjectionState(
            name=projector.name,
            stream=projector.stream,
            sequence=checkpoint.sequence if checkpoint else 0,
            parked=parked,
            problem=projector.check() or await _problem_elsewhere(projector, checkpoint),
        )

    async def _on_replay(self, request: ProjectionRequest, message: Msg) -> None:
        projector = self._projectors.get(request.projection)
        if projector is None:
            await _reply(message, ReplayReply(refused=self._no_such(request.projection)))
            return
        if self._own_facts is not None and projector is self._own_facts.projector:
            await self._own_facts.require_whole()
        await projector.reset()
        await _reply(message, ReplayReply())

    async def _on_parked(self, request: ParkedRequest, message: Msg) -> None:
        async with self._database.transaction() as connection:
            found = await list_parked(
                connection, request.projection, sequence=request.sequence, limit=LISTED
            )
        entries = [
            ParkedEntry(
                projection=event.projection,
                sequence=event.sequence,
                index=event.index,
                subject=event.subject,
                aggregate_id=event.aggregate_id,
                version=event.version,
                parked_at_ms=event.parked_at_ms,
                reason=event.reason,
                body=None if request.sequence is None else _shown(event.body),
            )
            for event in found
        ]
        await _reply(message, ParkedReply(events=tuple(entries)))

    async def _on_replay_parked(self, request: ProjectionRequest, message: Msg) -> None:
        projector = self._projectors.get(request.projection)
        if projector is None:
            refused = self._no_such(request.projection)
            await _reply(message, ReplayParkedReply(refused=refused))
            return
        folded, left = await projector.replay_parked()
        await _reply(message, ReplayParkedReply(folded=folded, left=left))

    async def _on_republish(self, request: RepublishRequest, message: Msg) -> None:
        if self._own_facts is None:
            return
        async for progress in self._own_facts.republish(dry_run=request.dry_run):
            await _reply(message, progress)

    def _no_such(self, projection: str) -> str:
        known = ", ".join(sorted(self._projectors))
        return f"no projection '{projection}' in this service; it has: {known}"


async def _problem_elsewhere(projector: Projector, checkpoint: Checkpoint | None) -> str | None:
    """Say what stops the process that projects, where that is another one."""
    if projector.projects_here:
        return None
    try:
        await projector.verify(checkpoint)
    except StreamDiverged as error:
        return f"halted: {error}"
    except (Unavailable, NatsError, TimeoutError, OSError) as error:
        return f"away: {error}"
    return None


def _shown(body: bytes) -> str:
    return body[:SHOWN_BYTES].decode("utf-8", "replace")


async def _reply(message: Msg, reply: Wire) -> None:
    if message.reply:
        await message.respond(wire.encode(reply))
