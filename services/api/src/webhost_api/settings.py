"""The api's environment."""

from typing import Annotated

from pydantic import Field, PositiveInt, SecretStr, field_validator, model_validator
from webhost_contracts.operator_tokens import OperatorTokens
from webhost_kit.http.settings import ClientAddressSettings, UserFacingSettings
from webhost_kit.process.keys_watch import PlatformKeySettings
from webhost_kit.process.settings import CallTimeoutSettings, CommaList, StreamSettings
from webhost_kit.response_keys import ResponseKeys
from webhost_kit.sealing import Sealer


class Settings(
    CallTimeoutSettings,
    ClientAddressSettings,
    PlatformKeySettings,
    StreamSettings,
    UserFacingSettings,
):
    """Variables are the fields' names in upper case. Times are seconds."""

    secrets_public_key: str
    """`<key id>:<base64url>`, the X25519 public key of the deployer's first secrets key: customers'
    secrets are sealed for it."""
    response_keys: SecretStr
    """Keys for what is kept under idempotency keys, `<key id>:<base64url of 32 bytes>,…`: requests'
    fingerprints, and sealed answers. The first is used; one that it replaces is needed for a day.
    """
    operator_tokens: CommaList = ()
    """Whose tokens are good for `/v1/operator/…`: `<operator>:<SHA-256 of the token in hex>,…`, an
    operator with several while they rotate; if not set, nobody's are."""
    keep_deployments: Annotated[int, Field(ge=1)] = 5
    """How many good deployments of an agent are kept for rollback."""
    resend_after_s: Annotated[float, Field(gt=0)] = 10
    """Seconds after which a command is sent again if the deployer has not started on it."""
    reads_per_minute: PositiveInt = 6_000
    """The most reads of one user per minute, at each api."""
    writes_per_minute: PositiveInt = 600
    """The most writes of one user per minute, at each api; deploys are counted apart."""
    deploys_per_minute: PositiveInt = 120
    """The most deploys that one user may ask for per minute, at each api."""
    registrations_per_hour: PositiveInt = 3_000
    """The most new users of one issuer per hour, at each api."""
    registrations_per_hour_and_address: PositiveInt = 600
    """The most new users per hour from one address (of IPv6: one /64 network), at each api."""
    unknown_keys_per_minute_and_address: PositiveInt = 600
    """The most API keys per minute from one address (of IPv6: one /64 network) that were not good
    when they came before, or are new to the api, at each api; and as many of what is no operator's
    token."""
    artifact_grace_s: Annotated[float, Field(gt=0)] = 24 * 3600
    """Seconds for which deployed code is stored at least, also when no deployment needs it."""
    event_streams_per_user: PositiveInt = 20
    """The most streams of agents' events that one user may have open, at each api."""
    retention_every_s: Annotated[float, Field(gt=0)] = 3600
    """Seconds between removals of audit entries and log lines that are past their tier's days."""

    @model_validator(mode="after")
    def _has_keys(self) -> "Settings":
        _ = self.sealer, self.keys
        return self

    @field_validator("operator_tokens")
    @classmethod
    def _operators_are_named(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        OperatorTokens.parse(values)
        return values

    @property
    def operators(self) -> OperatorTokens:
        """Return the operators' tokens."""
        return OperatorTokens.parse(self.operator_tokens)

    @property
    def sealer(self) -> Sealer:
        """Return what seals secrets. Raises ValueError."""
        return Sealer.parse(self.secrets_public_key, "SECRETS_PUBLIC_KEY")

    @property
    def keys(self) -> ResponseKeys:
        """Return what fingerprints requests and seals answers. Raises ValueError."""
        return ResponseKeys.parse(self.response_keys.get_secret_value())
