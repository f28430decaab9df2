"""Settings of the services that answer users, or whoever else may call them."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, model_validator

from webhost_kit.process.settings import Address, CommaList, ServiceSettings, TierSettings


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ip_network(value)
        except ValueError as error:
            raise ValueError(f"'{value}' is no address and no network") from error
    return values


class ClientAddressSettings(ServiceSettings):
    """Settings of a service that limits what an address may ask."""

    trusted_proxies: Annotated[CommaList, AfterValidator(_networks)] = ()
    """The addresses or networks of the proxies whose `X-Forwarded-For` says who the client is; if
    not set, the client is who connects, and all that come through one proxy are limited as one."""


class UserFacingSettings(TierSettings):
    """Settings of a service whose HTTP routes are for users, with their tokens.

    Exactly one of JWT_ISSUER and CLERK_JWT_ISSUER_DOMAIN names who signs the tokens.
    """

    listen: Address
    """The address on which the service listens."""
    jwt_issuer: str | None = None
    """The `iss` of users' tokens. Set either this or `CLERK_JWT_ISSUER_DOMAIN`."""
    clerk_jwt_issuer_domain: str | None = None
    """The Clerk domain that issues users' tokens, instead of `JWT_ISSUER`."""
    jwt_jwks_url: str | None = None
    """Where the issuer's keys are fetched, for a network in which its own address does not lead to
    it; if not set, its discovery document says where they are."""
    jwt_audience: str | None = None
    """If set, the `aud` claim that tokens must have."""
    jwt_authorized_parties: CommaList = ()
    """If set, the `azp` values that tokens may have."""
    allow_any_audience: bool = False
    """Allow tokens that the issuer signed for any program, with neither of the two above."""
    cors_allowed_origins: CommaList = ()
    """The origins whose pages may call the service from a browser."""

    @model_validator(mode="after")
    def _issuer_is_known(self) -> "UserFacingSettings":
        if bool(self.jwt_issuer) == bool(self.clerk_jwt_issuer_domain):
            raise ValueError("set exactly one of JWT_ISSUER and CLERK_JWT_ISSUER_DOMAIN")
        self.require_https("JWT_ISSUER", self.issuer)
        if self.jwt_jwks_url is not None:
            self.require_https("JWT_JWKS_URL", self.jwt_jwks_url)
        return self

    @model_validator(mode="after")
    def _tokens_are_for_us(self) -> "UserFacingSettings":
        named = self.jwt_audience or self.jwt_authorized_parties
        if not (named or self.allow_any_audience or self.webhost_local_stack):
            raise ValueError(
                "set JWT_AUDIENCE or JWT_AUTHORIZED_PARTIES, or else ALLOW_ANY_AUDIENCE"
            )
        return self

    @property
    def issuer(self) -> str:
        """Return the `iss` of the users' tokens."""
        if self.jwt_issuer:
            return self.jwt_issuer
        domain = self.clerk_jwt_issuer_domain or ""
        return domain if "://" in domain else f"https://{domain}"
