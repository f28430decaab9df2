"""Parked events: what the projections could not fold, as the services report it."""

from collections.abc import AsyncIterator

from nats.aio.client import Client
from webhost_contracts import maintenance
from webhost_contracts.maintenance import (
    ParkedEntry,
    ParkedReply,
    ParkedRequest,
    ProjectionRequest,
    ProjectionState,
    ReplayParkedReply,
)

from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.services import REPLAY_S, call, service_of


async def listed(client: Client, states: tuple[ProjectionState, ...]) -> AsyncIterator[ParkedEntry]:
    """Give what is parked of these projections, without the bodies."""
    for state in states:
        if state.parked:
            for event in await _entries(client, ParkedRequest(projection=state.name)):
                yield event


async def shown(client: Client, projection: str, sequence: int) -> tuple[ParkedEntry, ...]:
    """Return what is parked of one message, whole. Raises CommandError when there is nothing."""
    request = ParkedRequest(projection=projection, sequence=sequence)
    if not (found := await _entries(client, request)):
        raise CommandError(f"nothing is parked at {projection}/{sequence}", ExitCode.NOT_FOUND)
    return found


async def replay(client: Client, projection: str) -> ReplayParkedReply:
    """Fold what is parked of this projection again."""
    request = ProjectionRequest(projection=projection)
    service, verb = service_of(projection), maintenance.REPLAY_PARKED
    return await call(client, service, verb, request, ReplayParkedReply, timeout_s=REPLAY_S)


async def _entries(client: Client, request: ParkedRequest) -> tuple[ParkedEntry, ...]:
    service = service_of(request.projection)
    return (await call(client, service, maintenance.PARKED, request, ParkedReply)).events
