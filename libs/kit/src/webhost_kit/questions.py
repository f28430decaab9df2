"""Questions between services: request/reply with a short timeout, FastStream on the other side.

Consumes and emits: `ask.<service>.<what>` and its reply; nothing of it is stored.
Guarantees: an answer in time, or Unavailable; of several replicas one answers.
On a repeat: the question is answered again, so an answer that changes something has to bear that.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from faststream.nats import NatsBroker, NatsMessage
from nats.errors import Error as NatsError
from webhost_contracts import wire
from webhost_contracts.wire import Wire

from webhost_kit.bus import Bus
from webhost_kit.errors import Unavailable

TIMEOUT_S = 2.0

Q = TypeVar("Q", bound=Wire)
A = TypeVar("A", bound=Wire)


async def ask(bus: Bus, subject: str, question: Wire, answer: type[A]) -> A:
    """Return the other side's answer. Raises Unavailable when none comes in time."""
    try:
        reply = await bus.client.request(subject, wire.encode(question), timeout=TIMEOUT_S)
        return wire.decode(reply.data, answer)
    except (NatsError, TimeoutError, OSError, msgspec.DecodeError) as error:
        raise Unavailable("A part of the system is away; try again shortly.") from error


def answer(
    broker: NatsBroker,
    subject: str,
    question: type[Q],
    handler: Callable[[Q], Awaitable[Wire]],
) -> None:
    """Let `handler` answer this question; replicas share the work."""

    async def undecoded(message: NatsMessage) -> bytes:
        return message.body

    @broker.subscriber(
        subject,
        queue=subject,
        title=subject,
        description=question.__doc__,
        decoder=undecoded,
    )
    async def _on_question(body: bytes) -> bytes:  # pyright: ignore[reportUnusedFunction]
        return wire.encode(await handler(wire.decode(body, question)))
