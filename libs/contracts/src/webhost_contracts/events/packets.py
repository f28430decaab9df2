"""Packets: one message of USAGE that carries many facts of one partition and one producer.

The message's type is PACKET; its body is a JSON array of envelopes. The type of each fact is in
its envelope's data. A packet is stored whole or not at all, and may be stored twice.
"""

from collections.abc import Iterable

PACKET = "packet.v1"


def pack(envelopes: Iterable[bytes]) -> bytes:
    """Return the body of a packet of these encoded envelopes."""
    return b"[%b]" % b",".join(envelopes)
