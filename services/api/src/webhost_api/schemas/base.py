"""What all schemas share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


def is_absent(value: object) -> bool:
    """Say whether an optional field is left out of the JSON."""
    return value is None


class Schema(BaseModel):
    """Base of all responses; made from any object that has its attributes."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, from_attributes=True, frozen=True
    )


OptionalText = Annotated[str | None, Field(exclude_if=is_absent)]
OptionalInt = Annotated[int | None, Field(exclude_if=is_absent)]
