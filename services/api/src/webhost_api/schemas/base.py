"""What all shapes share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


def is_absent(value: object) -> bool:
    """Say whether an optional field is left out."""
    return value is None


class Schema(BaseModel):
    """Base of all shapes."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


OptionalText = Annotated[str | None, Field(exclude_if=is_absent)]
OptionalInt = Annotated[int | None, Field(exclude_if=is_absent)]
