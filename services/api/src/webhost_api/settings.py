"""The api's environment."""

from typing import Annotated

from pydantic import Field
from webhost_kit.process.settings import UserFacingSettings


class Settings(UserFacingSettings):
    """Variables are the fields' names in upper case. Times are seconds."""

    keep_deployments: Annotated[int, Field(ge=1)] = 5
    """How many good deployments of an agent are kept, to roll back to."""
    longest_call_s: Annotated[int, Field(ge=1)] = 120
    """Seconds after which every call has ended, so that a deployment can be torn down."""
