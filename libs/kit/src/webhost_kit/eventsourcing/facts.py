"""Decodes a stream's messages into the facts that a fold consumes.

A message carries one fact, or a packet of them. What cannot be decoded, or is of an unknown
version of a kind that the fold consumes, is not skipped but returned as Unfoldable. So is a fact
on a subject that is not its own: whoever stated it may not be the owner of its kind, since all
that the bus knows of a publisher is where it may publish.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import msgspec
from webhost_contracts import subjects
from webhost_contracts.events import EVENT_TYPES
from webhost_contracts.events.base import Envelope, Event
from webhost_contracts.events.packets import PACKET

from webhost_kit.bus.reader import Recorded

_KNOWN_TYPES = frozenset(kind.type_name() for kind in EVENT_TYPES)
_packet = msgspec.json.Decoder(list[msgspec.Raw])
_envelope = msgspec.json.Decoder(Envelope)


class Fact(msgspec.Struct, frozen=True):
    """A decoded event with its place and time on the stream; `index` counts within a packet."""

    sequence: int
    recorded_at_ms: int
    envelope: Envelope
    event: Event
    index: int = 0
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Unfoldable:
    """What a fold cannot use, exactly as recorded, and why.

    `aggregate_id` and `version` are known where at least the envelope could be read. One that is
    `refused` stands on a subject that is not its own: it is about nobody, and holds nobody back.
    """

    sequence: int
    recorded_at_ms: int
    index: int
    reason: str
    body: bytes
    aggregate_id: str | None = None
    version: int | None = None
    subject: str = ""
    refused: bool = False


def decoded(
    messages: Iterable[Recorded], types: Mapping[str, type[Event]]
) -> list[Fact | Unfoldable]:
    """Decode the facts of these types, in order. Known types that are not among them are left out.

    A type unknown to the contracts is Unfoldable if its kind is one of those of `types`.
    """
    kinds = frozenset(kind.kind() for kind in types.values())
    found: list[Fact | Unfoldable] = []
    for message in messages:
        if message.type_name == PACKET:
            found += _of_packet(message, types, kinds)
        elif (one := _one(message, 0, message.body, message.type_name, types, kinds)) is not None:
            found.append(one)
    return found


def facts(messages: Iterable[Recorded], types: Mapping[str, type[Event]]) -> list[Fact]:
    """Decode the facts of these types, in order, without those that cannot be digested."""
    return [one for one in decoded(messages, types) if isinstance(one, Fact)]


def fact_of(
    sequence: int,
    recorded_at_ms: int,
    index: int,
    subject: str,
    body: bytes,
    types: Mapping[str, type[Event]],
) -> Fact | None:
    """Decode one envelope again, None where that still cannot be done."""
    message = Recorded(sequence, recorded_at_ms, subject, None, None, body)
    one = _one(message, index, body, None, types, frozenset())
    return one if isinstance(one, Fact) else None


def _of_packet(
    message: Recorded, types: Mapping[str, type[Event]], kinds: frozenset[str]
) -> list[Fact | Unfoldable]:
    try:
        bodies = _packet.decode(message.body)
    except (msgspec.DecodeError, RecursionError) as error:
        return [_unfoldable(message, 0, message.body, f"undecodable packet: {error}")]
    found = [
        _one(message, index, bytes(body), None, types, kinds) for index, body in enumerate(bodies)
    ]
    return [one for one in found if one is not None]


def _one(
    message: Recorded,
    index: int,
    body: bytes,
    type_name: str | None,
    types: Mapping[str, type[Event]],
    kinds: frozenset[str],
) -> Fact | Unfoldable | None:
    if type_name is not None and type_name not in types and not _is_unhandled(type_name, kinds):
        return None
    try:
        envelope = _envelope.decode(body)
        type_name = type_name or envelope.type_name()
    except (msgspec.DecodeError, RecursionError) as error:
        return _unfoldable(message, index, body, f"undecodable: {error}")
    kind = types.get(type_name)
    if kind is None:
        if not _is_unhandled(type_name, kinds):
            return None
        return _unfoldable(message, index, body, f"unknown type {type_name}", envelope, type_name)
    try:
        event = _decoder(kind).decode(envelope.data)
    except (msgspec.DecodeError, RecursionError) as error:
        return _unfoldable(message, index, body, f"undecodable: {error}", envelope, type_name)
    if message.subject != event.published_on(envelope.user_id, envelope.aggregate_id):
        return _refused(message, index, body, envelope, type_name)
    return Fact(message.sequence, message.recorded_at_ms, envelope, event, index, message.subject)


@cache
def _decoder(kind: type[Event]) -> msgspec.json.Decoder[Event]:
    return msgspec.json.Decoder(kind)


def _is_unhandled(type_name: str, kinds: frozenset[str]) -> bool:
    return type_name not in _KNOWN_TYPES and type_name.partition(".")[0] in kinds


def _refused(
    message: Recorded, index: int, body: bytes, envelope: Envelope, type_name: str
) -> Unfoldable:
    reason = f"{type_name} of {envelope.user_id} about {envelope.aggregate_id}: not to be stated on"
    one = _unfoldable(message, index, body, f"{reason} {message.subject}")
    return replace(one, refused=True)


def _unfoldable(
    message: Recorded,
    index: int,
    body: bytes,
    reason: str,
    envelope: Envelope | None = None,
    type_name: str = "",
) -> Unfoldable:
    if envelope is not None:
        kind = type_name.partition(".")[0]
        if not subjects.holds(message.subject, kind, envelope.user_id):
            return _refused(message, index, body, envelope, type_name)
    return Unfoldable(
        message.sequence,
        message.recorded_at_ms,
        index,
        reason[:500],
        body,
        envelope.aggregate_id if envelope else None,
        envelope.version if envelope else None,
        message.subject,
    )
