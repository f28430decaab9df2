"""From what a stream holds to what a fold understands."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import structlog
from webhost_contracts import wire
from webhost_contracts.events.base import Envelope, Event

from webhost_kit.bus.reader import Recorded

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Fact:
    """A decoded event with its place and time on the stream."""

    sequence: int
    recorded_at_ms: int
    envelope: Envelope
    event: Event


def facts(messages: Iterable[Recorded], types: Mapping[str, type[Event]]) -> list[Fact]:
    """Decode the messages of these types.

    Others change nothing. One that cannot be decoded is logged, with its place, and skipped.
    """
    decoded: list[Fact] = []
    for message in messages:
        kind = types.get(message.type_name or "")
        if kind is None:
            continue
        try:
            envelope = wire.decode(message.body, Envelope)
            event = msgspec.json.decode(envelope.data, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            log.error(
                "undecodable event skipped",
                sequence=message.sequence,
                type=message.type_name,
                error=str(error),
            )
            continue
        decoded.append(Fact(message.sequence, message.recorded_at_ms, envelope, event))
    return decoded
