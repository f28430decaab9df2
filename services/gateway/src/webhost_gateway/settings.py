"""The gateway's environment."""

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, model_validator
from webhost_kit.http.settings import ClientAddressSettings, UserFacingSettings
from webhost_kit.keys import Signer, parse_shared_secrets, parse_signers, parse_symmetric_keys
from webhost_kit.process.keys_watch import PlatformKeySettings
from webhost_kit.process.settings import Address, CallTimeoutSettings


class Settings(UserFacingSettings, CallTimeoutSettings, ClientAddressSettings, PlatformKeySettings):
    """Variables are the fields' names in upper case. Times are seconds."""

    invoke_private_keys: SecretStr
    """Ed25519 keys, `<key id>:<base64url seed>,…`; the first one signs calls to Workers."""
    response_keys: SecretStr
    """Keys for what is kept of calls with an idempotency key, `<key id>:<base64url of 32 bytes>,…`;
    the first one is for new calls. Keep an older one for a day for its answers, and for 13 months
    where repeats of delegated calls are to be compared with the first."""
    delegation_secrets: SecretStr | None = None
    """Who may call agents for their users, `<source>:<base64url of at least 32 bytes>,…`, a source
    with several secrets while they rotate; if not set, nobody may."""
    workers_connect_to: Address | None = None
    """In the local stack only: where the Workers' addresses really are."""
    first_byte_timeout_s: PositiveFloat = 30.0
    """Seconds that a Worker may take to send its first byte."""
    heartbeat_s: PositiveFloat = 15.0
    """Seconds of silence after which a stream gets a heartbeat."""
    lease_ttl_s: PositiveFloat = 8.0
    """Seconds without a renewal after which a gateway's calls are finished by another one."""
    answer_bytes_in_flight: int = Field(default=32 * 1024 * 1024, ge=16 * 1024 * 1024)
    """Bytes of Workers' answers that are held at a time, those of up to 64 KiB aside; a quarter of
    it for one user. What finds no room is not read from its Worker yet."""
    agent_requests_per_minute: PositiveInt | None = None
    """The most calls per minute to one agent, if lower than what the tier allows."""

    @property
    def signer(self) -> Signer:
        """Return what signs calls to Workers. Raises ValueError."""
        keys = self.invoke_private_keys.get_secret_value()
        return parse_signers(keys, "INVOKE_PRIVATE_KEYS")[0]

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if self.workers_connect_to is not None and not self.webhost_local_stack:
            raise ValueError("WORKERS_CONNECT_TO is for the local stack only")
        _ = self.signer
        parse_symmetric_keys(self.response_keys.get_secret_value(), "RESPONSE_KEYS")
        if self.delegation_secrets is not None:
            parse_shared_secrets(self.delegation_secrets.get_secret_value(), "DELEGATION_SECRETS")
        return self
