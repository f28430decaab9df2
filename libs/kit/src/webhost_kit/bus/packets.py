"""Collects the facts of one subject in packets, each of which is published as one message."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from webhost_contracts import subjects
from webhost_contracts.events.packets import PACKET, pack

from webhost_kit.bus.publishing import Message

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
