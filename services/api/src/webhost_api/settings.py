"""The api's environment."""

from typing import Annotated

from pydantic import Field
from webhost_kit.process.settings import UserFacingSettings


class Settings(UserFacingSettings):
    """Variables are the fields' names in upper case. Times are seconds."""

    keep_deployments: Annotated[int, Field(ge=1)] = 5
    longest_call_s: Annotated[int, Field(ge=1)] = 120
