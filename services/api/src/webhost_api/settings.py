"""The api's environment."""

from typing import Annotated

from pydantic import Field, PositiveInt, SecretStr, field_validator, model_validator
from webhost_kit.answer_keys import AnswerKeys
from webhost_kit.process.settings import CountsAddresses, LongestCall, UserFacingSettings
from webhost_kit.sealing import Fingerprints, Sealer


class Settings(LongestCall, CountsAddresses, UserFacingSettings):
    """Variables are the fields' names in upper case. Times are seconds."""

    answer_keys: SecretStr
    """Keys for recorded answers that hold a new API key, `<name>:<base64url of 32 bytes>,…`; the
    first one encrypts, and one that it replaces is needed for a day more."""
    secrets_public_key: str
    """`<key id>:<base64url>`, the X25519 public key of the deployer's first secrets key: customers'
    secrets are sealed for it."""
    fingerprint_key: SecretStr
    """The base64url of 32 random bytes: what the bodies of requests with an idempotency key are
    fingerprinted with. With another key, idempotency keys in use are refused for a day."""
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
    artifact_grace_s: Annotated[float, Field(gt=0)] = 24 * 3600
    """Seconds for which deployed code is stored at least, also when no deployment needs it."""
    event_streams_per_user: PositiveInt = 20
    """The most streams of agents' events that one user may have open, at each api."""
    retention_every_s: Annotated[float, Field(gt=0)] = 3600
    """Seconds between removals of audit entries and log lines that are past their tier's days."""

    @field_validator("answer_keys")
    @classmethod
    def _answer_keys_are_keys(cls, keys: SecretStr) -> SecretStr:
        AnswerKeys.parse(keys.get_secret_value(), "ANSWER_KEYS")
        return keys

    @model_validator(mode="after")
    def _has_keys(self) -> "Settings":
        _ = self.sealer, self.fingerprints
        return self

    @property
    def sealer(self) -> Sealer:
        """Return what seals secrets. Raises ValueError."""
        return Sealer.parse(self.secrets_public_key, "SECRETS_PUBLIC_KEY")

    @property
    def fingerprints(self) -> Fingerprints:
        """Return what fingerprints requests. Raises ValueError."""
        return Fingerprints.parse(self.fingerprint_key.get_secret_value(), "FINGERPRINT_KEY")
