"""The gateway's environment."""

from pathlib import Path

from pydantic import SecretStr, model_validator
from webhost_kit.keys import parse_signers
from webhost_kit.settings import Address, CommaList, ServiceSettings


class Settings(ServiceSettings):
    """Variables are the fields' names in upper case. Times are seconds."""

    listen: Address
    jwt_issuer: str | None = None
    clerk_jwt_issuer_domain: str | None = None
    jwt_audience: str | None = None
    jwt_authorized_parties: CommaList = ()
    invoke_private_keys: SecretStr
    workers_connect_to: Address | None = None
    invoke_timeout_s: float = 60.0
    first_byte_timeout_s: float = 30.0
    heartbeat_s: float = 15.0
    lease_ttl_s: float = 8.0
    agent_requests_per_minute: int | None = None
    cors_allowed_origins: CommaList = ()
    webhost_tiers_file: Path | None = None

    @property
    def issuer(self) -> str:
        """The one issuer whose tokens are accepted."""
        if self.jwt_issuer is not None:
            return self.jwt_issuer
        domain = self.clerk_jwt_issuer_domain or ""
        return domain if "://" in domain else f"https://{domain}"

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if (self.jwt_issuer is None) == (self.clerk_jwt_issuer_domain is None):
            raise ValueError("set either JWT_ISSUER or CLERK_JWT_ISSUER_DOMAIN")
        self.require_https("JWT_ISSUER", self.issuer)
        if self.workers_connect_to is not None and not self.webhost_local_stack:
            raise ValueError("WORKERS_CONNECT_TO is for the local stack only")
        parse_signers(self.invoke_private_keys.get_secret_value(), "INVOKE_PRIVATE_KEYS")
        return self
