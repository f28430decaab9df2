"""The api's environment."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from webhost_contracts.entitlements import Entitlements, load_tiers
from webhost_kit.settings import Address, CommaList, ServiceSettings


class Settings(ServiceSettings):
    """What the api needs to know beside what every service does.

    Exactly one of JWT_ISSUER and CLERK_JWT_ISSUER_DOMAIN names who signs the users' tokens.
    """

    listen: Address
    jwt_issuer: str | None = None
    clerk_jwt_issuer_domain: str | None = None
    jwt_audience: str | None = None
    jwt_authorized_parties: CommaList = ()
    cors_allowed_origins: CommaList = ()
    webhost_tiers_file: Path | None = None
    keep_deployments: Annotated[int, Field(ge=1)] = 5
    longest_call_s: Annotated[int, Field(ge=1)] = 120

    @model_validator(mode="after")
    def _issuer_is_known(self) -> "Settings":
        if bool(self.jwt_issuer) == bool(self.clerk_jwt_issuer_domain):
            raise ValueError("set exactly one of JWT_ISSUER and CLERK_JWT_ISSUER_DOMAIN")
        self.require_https("JWT_ISSUER", self.issuer)
        return self

    @model_validator(mode="after")
    def _tiers_are_usable(self) -> "Settings":
        self.tiers()
        return self

    @property
    def issuer(self) -> str:
        """Return the `iss` of the users' tokens."""
        if self.jwt_issuer:
            return self.jwt_issuer
        domain = self.clerk_jwt_issuer_domain or ""
        return domain if "://" in domain else f"https://{domain}"

    def tiers(self) -> dict[str, Entitlements]:
        """Return what each tier allows. Raises TiersError."""
        return load_tiers(self.webhost_tiers_file)
