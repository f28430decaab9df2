"""Operators' requests to the services over the bus."""

from typing import TypeVar

from nats.aio.client import Client
from nats.errors import NoRespondersError
from webhost_contracts import maintenance
from webhost_contracts.maintenance import (
    Nothing,
    ParkedReply,
    ProjectionRequest,
    ProjectionsReply,
    ProjectionState,
    ReplayParkedReply,
    ReplayReply,
)
from webhost_contracts.wire import Wire

from webhost_cli import bus
from webhost_cli.errors import CommandError, ExitCode

REPLY_S = 5.0
REPLAY_S = 600.0
"""Own facts are compared with all of their stream before."""

R = TypeVar("R", ReplayReply, ParkedReply, ProjectionsReply, ReplayParkedReply)


def service_of(projection: str) -> str:
    """Return whose projection this is. Raises CommandError where the name names no service."""
    service = projection.partition(".")[0]
    if service not in maintenance.SERVICES:
        raise CommandError(
            f"'{projection}' is not a projection; `webhost streams status` lists them",
            ExitCode.USAGE,
        )
    return service


async def projections(client: Client, service: str) -> tuple[ProjectionState, ...] | None:
    """Return where a service's projections stand, None when it does not answer."""
    try:
        reply = await call(client, service, maintenance.PROJECTIONS, Nothing(), ProjectionsReply)
    except (NoRespondersError, bus.NoReply):
        return None
    return reply.projections


async def replay(client: Client, projection: str) -> None:
    """Restart a projection from the beginning of its stream."""
    request = ProjectionRequest(projection=projection)
    service, verb = service_of(projection), maintenance.REPLAY
    await call(client, service, verb, request, ReplayReply, timeout_s=REPLAY_S)


async def call(
    client: Client,
    service: str,
    verb: str,
    request: Wire,
    kind: type[R],
    *,
    timeout_s: float = REPLY_S,
) -> R:
    """Ask a service. Raises CommandError when it refuses, NatsError and NoReply."""
    subject = maintenance.subject(service, verb)
    reads = verb in (maintenance.PROJECTIONS, maintenance.PARKED)
    reply = await bus.ask(client, subject, request, kind, timeout_s=timeout_s, reads=reads)
    if reply.refused is not None:
        raise CommandError(f"{service} refused: {reply.refused}")
    return reply
