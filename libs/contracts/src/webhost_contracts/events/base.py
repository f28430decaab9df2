"""What all facts share: the type, which is the struct's tag, and the envelope around it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from webhost_contracts import subjects
from webhost_contracts.wire import Wire


class Event(Wire, frozen=True, kw_only=True, tag_field="type"):
    """A fact. Its tag is its stored name, such as `agent.created.v1`."""

    @classmethod
    def type_name(cls) -> str:
        """Return the stored name of this type."""
        tag = cls.__struct_config__.tag
        if not isinstance(tag, str):
            raise TypeError(f"{cls.__name__} has no tag")
        return tag

    @classmethod
    def kind(cls) -> str:
        """Return the kind of aggregate that this fact is about, such as `agent`."""
        return cls.type_name().partition(".")[0]

    def published_on(self, user_id: str, aggregate_id: str) -> str:
        """Return where this fact about an aggregate of this user is published."""
        return subjects.event(user_id, self.kind(), aggregate_id)


class UsageFact(Event, frozen=True, kw_only=True):
    """A fact of USAGE, which travels in packets of its owner's to one partition."""

    def published_on(self, user_id: str, aggregate_id: str) -> str:
        """Return the subject of the packets that hold such facts about this user."""
        partition = subjects.partition_of(user_id)
        return subjects.usage_packets(partition, subjects.OWNERS[self.kind()])


class Envelope(Wire, frozen=True, kw_only=True):
    """A fact and its metadata, as stored on a stream.

    `data` is the fact as JSON, its `type` inside; `version` counts the facts of one aggregate
    from 1 without gaps.
    """

    event_id: str
    aggregate_id: str
    version: int
    user_id: str
    occurred_at_ms: int
    actor: str
    data: msgspec.Raw
    request_id: str | None = None
    traceparent: str | None = None
    causation_id: str | None = None

    def type_name(self) -> str:
        """Return the type of the fact inside, known or not."""
        return _typed.decode(self.data).type

    def event(self, types: Mapping[str, type[Event]]) -> Event | None:
        """Return the fact inside, or None where its type is not one of `types`."""
        kind = types.get(self.type_name())
        return None if kind is None else msgspec.json.decode(self.data, type=kind)


class _Typed(msgspec.Struct):
    type: str


_typed = msgspec.json.Decoder(_Typed)


def by_name(*types: type[Event]) -> dict[str, type[Event]]:
    """Return these types by their stored name."""
    return {kind.type_name(): kind for kind in types}


def data_of(event: Event) -> msgspec.Raw:
    """Return the fact as the JSON that an envelope carries."""
    return msgspec.Raw(msgspec.json.encode(event))


Json = dict[str, Any]
