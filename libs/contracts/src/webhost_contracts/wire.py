"""How every message on the bus is written: JSON in camelCase, decoded with msgspec."""

from typing import Any, TypeVar

import msgspec


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of everything that crosses the bus. Unknown fields are dropped: contracts only grow."""


T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """Return the message as JSON bytes."""
    return _encoder.encode(message)


def decode(body: bytes, kind: type[T]) -> T:
    """Return the message of this kind. Raises msgspec.ValidationError or msgspec.DecodeError."""
    return msgspec.json.decode(body, type=kind)
