"""The gateway's environment."""

from pydantic import SecretStr, model_validator
from webhost_kit.keys import parse_signers
from webhost_kit.process.settings import Address, LongestCall, UserFacingSettings


class Settings(UserFacingSettings, LongestCall):
    """Variables are the fields' names in upper case. Times are seconds."""

    invoke_private_keys: SecretStr
    workers_connect_to: Address | None = None
    first_byte_timeout_s: float = 30.0
    heartbeat_s: float = 15.0
    lease_ttl_s: float = 8.0
    agent_requests_per_minute: int | None = None

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.workers_connect_to is not None and not self.webhost_local_stack:
            raise ValueError("WORKERS_CONNECT_TO is for the local stack only")
        parse_signers(self.invoke_private_keys.get_secret_value(), "INVOKE_PRIVATE_KEYS")
        return self
