"""Questions between services: request/reply with a short timeout, FastStream on the other side.

Consumes and emits: `rpc.<service>.<what>` and its reply; nothing of it is stored.
Guarantees: an answer in time, or Unavailable; of several replicas one answers.
On a repeat: the request is answered again, so an answer that changes something has to bear that.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from faststream.nats import NatsBroker, NatsMessage
from nats.errors import Error as NatsError
from webhost_contracts import wire
from webhost_contracts.wire import Wire

from webhost_kit.bus.connection import Bus
from webhost_kit.errors import Unavailable

TIMEOUT_S = 2.0

Q = TypeVar("Q", bound=Wire)
A = TypeVar("A", bound=Wire)


async def call(bus: Bus, subject: str, request: Wire, kind: type[A]) -> A:
    """Return the other side's reply. Raises Unavailable when none comes in time."""
    try:
        reply = await bus.client.request(subject, wire.encode(request), timeout=TIMEOUT_S)
        return wire.decode(reply.data, kind)
    except (NatsError, TimeoutError, OSError, msgspec.DecodeError) as error:
        raise Unavailable("A part of the system is away; try again shortly.") from error


def serve(
    broker: NatsBroker,
    subject: str,
    request: type[Q],
    handler: Callable[[Q], Awaitable[Wire]],
) -> None:
    """Let `handler` reply to requests of this kind; replicas share the work."""

    async def undecoded(message: NatsMessage) -> bytes:
        return message.body

    @broker.subscriber(
        subject,
        queue=subject,
        title=subject,
        description=request.__doc__,
        decoder=undecoded,
    )
    async def _on_request(body: bytes) -> bytes:  # pyright: ignore[reportUnusedFunction]
        return wire.encode(await handler(wire.decode(body, request)))
