"""How every message on the bus is written: JSON in camelCase, decoded with msgspec."""

from typing import Any, TypeVar

import msgspec


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of everything that crosses the bus. Unknown fields are dropped: contracts only grow."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: Any) -> dict[str, Any]:
        """Describe the message to pydantic: FastStream has no other way to get a JSON schema.

        Nothing is ever decoded by this.
        """
        fields = {
            field.encode_name: {
                "type": "typed-dict-field",
                "schema": handler.generate_schema(field.type),
                "required": field.required,
            }
            for field in msgspec.structs.fields(cls)
        }
        if (tag_field := cls.__struct_config__.tag_field) is not None:
            tag = {"type": "literal", "expected": [cls.__struct_config__.tag]}
            fields = {tag_field: {"type": "typed-dict-field", "schema": tag}} | fields
        return {"type": "typed-dict", "fields": fields, "cls_name": cls.__name__}


T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """Return the message as JSON bytes."""
    return _encoder.encode(message)


def decode(body: bytes, kind: type[T]) -> T:
    """Return the message of this kind. Raises msgspec.ValidationError or msgspec.DecodeError."""
    return msgspec.json.decode(body, type=kind)
