"""The api's environment."""

from typing import Annotated

from pydantic import Field
from webhost_kit.process.settings import LongestCall, UserFacingSettings


class Settings(LongestCall, UserFacingSettings):
    """Variables are the fields' names in upper case. Times are seconds."""

    keep_deployments: Annotated[int, Field(ge=1)] = 5
    """How many good deployments of an agent are kept for rollback."""
    resend_after_s: Annotated[float, Field(gt=0)] = 10
    """Seconds after which a command is sent again if the deployer has not started on it."""
