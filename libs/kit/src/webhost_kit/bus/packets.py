"""Collects the facts of one subject in packets, each of which is published as one message.

Emits: packets to USAGE; a few are published one by one, many atomically.
Guarantees: `stored` returns those that the stream holds, without any doubt, within a bounded time.
On a failure: the others may be stored or not; the sender publishes them again, or says so.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog
from nats.errors import Error as NatsError
from webhost_contracts import subjects
from webhost_contracts.events.packets import PACKET, pack

from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import FEW, Message, publish_together

log = structlog.get_logger(__name__)

PACKET_BYTES = 512 * 1024
"""About half of the server's maximum message size."""

T = TypeVar("T")


@dataclass
class Packet(Generic[T]):
    """Encoded facts of one subject; `items` identify them to the sender."""

    subject: str
    items: list[T] = field(default_factory=list[T])
    bodies: list[bytes] = field(default_factory=list[bytes])
    size: int = 0

    def message(self) -> Message:
        """Return what is published."""
        return Message(self.subject, pack(self.bodies), {subjects.TYPE_HEADER: PACKET})


def in_packets(facts: Iterable[tuple[T, str, bytes]]) -> list[Packet[T]]:
    """Collect facts (item, subject, body) by subject, within a packet's maximum size."""
    packets: list[Packet[T]] = []
    filling: dict[str, Packet[T]] = {}
    for item, subject, body in facts:
        packet = filling.get(subject)
        if packet is None or packet.size + len(body) > PACKET_BYTES:
            packet = filling[subject] = Packet(subject)
            packets.append(packet)
        packet.items.append(item)
        packet.bodies.append(body)
        packet.size += len(body)
    return packets


async def stored(
    bus: Bus,
    packets: Sequence[Packet[T]],
    message_of: Callable[[Packet[T]], Message] = Packet[T].message,
) -> list[Packet[T]]:
    """Publish packets; return those that are durable."""

    async def together(some: Sequence[Packet[T]]) -> Sequence[Packet[T]]:
        try:
            await publish_together(bus, [message_of(packet) for packet in some])
        except (NatsError, TimeoutError, OSError) as error:
            log.warning("packets not acknowledged", packets=len(some), error=repr(error))
            return ()
        return some

    # One by one, one that fails leaves no doubt about the others.
    groups = [packets] if len(packets) > FEW else [[packet] for packet in packets]
    return [packet for some in await asyncio.gather(*map(together, groups)) for packet in some]
