"""How every service reads its environment: typed, validated before anything connects.

Secrets print masked. An empty variable counts as missing. A missing or invalid variable ends the
process with one line that names it.
"""

import os
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from webhost_contracts.bus_urls import servers_of
from webhost_contracts.entitlements import Entitlements, load_tiers

from webhost_kit.process.trace_export import headers_of

EXIT_MISCONFIGURED = 78
"""The exit code of a process whose environment is wrong (EX_CONFIG)."""


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("must be host:port")
    return value


CommaList = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    WithJsonSchema({"type": "string", "format": "list, comma-separated"}),
]
"""Several values in one variable, separated by commas."""

Address = Annotated[
    str, AfterValidator(_address), WithJsonSchema({"type": "string", "format": "host:port"})
]
"""host:port"""


class DatabaseSettings(BaseSettings):
    """Settings of whatever connects to Postgres. Variables are the fields' names in upper case.

    Each field's docstring is its line in docs/configuration.md.
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    webhost_local_stack: bool = False
    """Whether this is a local stack on one machine, where nothing has to be encrypted."""
    database_url: SecretStr
    """The Postgres DSN, with this service's role and `sslmode=verify-full`."""
    allow_plain_postgres: bool = False
    """Allow a Postgres DSN without `sslmode=verify-full`, where the network can be trusted."""

    @model_validator(mode="after")
    def _postgres_is_verified(self) -> "DatabaseSettings":
        self.require_verified("DATABASE_URL", self.database_url)
        return self

    def require_verified(self, name: str, dsn: SecretStr) -> None:
        """Refuse a DSN with which the server need not prove who it is, unless that is allowed."""
        if self.webhost_local_stack or self.allow_plain_postgres:
            return
        try:
            verified = is_verified(dsn.get_secret_value())
        except ValueError as error:
            raise ValueError(f"{name} is {error}") from error
        if not verified:
            raise ValueError(f"{name} needs sslmode=verify-full; or set ALLOW_PLAIN_POSTGRES")

    def opt_outs(self) -> list[str]:
        """Return the variables that are set to allow what is refused by default."""
        fields = type(self).model_fields
        return [
            name.upper() for name in fields if name.startswith("allow_") and getattr(self, name)
        ]


def is_verified(dsn: str) -> bool:
    """Say whether a connection with this DSN is to a verified server, or to this machine's socket.

    Raises ValueError where it is no DSN.
    """
    try:
        parameters = conninfo_to_dict(dsn)
    except ProgrammingError as error:
        raise ValueError("not a Postgres DSN") from error
    hosts = str(parameters.get("host") or "/").split(",")
    is_local = all(host.startswith(("/", "@")) for host in hosts)
    if is_local and "hostaddr" not in parameters:
        return True
    return parameters.get("sslmode") == "verify-full"


class ServiceSettings(DatabaseSettings):
    """Settings of every service."""

    webhost_installation_id: str
    """The id that tags everything that this installation creates at a provider."""
    nats_url: SecretStr
    """The NATS URL, `tls://…`, with this service's credentials; of a cluster, that of each server,
    with commas between them."""
    allow_plain_nats: bool = False
    """Allow a NATS URL that is not `tls://…`, where the network can be trusted."""
    migrate_at_start: bool = False
    """For development: migrate with the service's own role, which has to own the schema then."""
    ops_listen: Address
    """The address on which to serve `/livez`, `/readyz` and `/metrics`; keep it private."""
    drain_s: NonNegativeFloat = 0.0
    """Seconds after SIGTERM in which the service still takes requests, and keeps no connection:
    `/readyz` fails already, and whoever balances requests needs a moment to notice. What is then
    under way may finish: at a gateway for LONGEST_CALL_S, elsewhere for 10 s. A second SIGTERM cuts
    it off."""
    log_format: Literal["json", "console"] = "json"
    """`json`, or `console`, which is easier to read."""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)
    ] = "info"
    """`debug`, `info`, `warning` or `error`."""
    otel_exporter_otlp_endpoint: str | None = None
    """The collector of traces, such as `https://collector:4318`: spans are posted to its
    `/v1/traces`, OTLP over HTTP. If not set, nothing is recorded."""
    otel_exporter_otlp_headers: SecretStr | None = None
    """Headers of those requests, `name=value,…` with percent-encoded values, such as a token."""
    otel_traces_sampler_arg: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share, from 0 to 1, of the traces started here that are recorded. For those that a
    caller started, the caller has decided (OpenTelemetry's sampler `parentbased_traceidratio`)."""
    webhost_crash_file: Path | None = None
    """For tests, in the local stack only: a file that names where the process is to crash."""

    @model_validator(mode="after")
    def _nats_is_encrypted(self) -> "ServiceSettings":
        allowed = self.webhost_local_stack or self.allow_plain_nats
        schemes = {urlsplit(url).scheme for url in servers_of(self.nats_url.get_secret_value())}
        if not schemes:
            raise ValueError("NATS_URL names no server")
        if not allowed and schemes != {"tls"}:
            raise ValueError("NATS_URL must be a tls:// address; or set ALLOW_PLAIN_NATS")
        return self

    @model_validator(mode="after")
    def _collector_can_be_called(self) -> "ServiceSettings":
        endpoint, headers = self.otel_exporter_otlp_endpoint, self.otel_exporter_otlp_headers
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise ValueError("OTEL_EXPORTER_OTLP_ENDPOINT must be an http or https address")
        if headers is None:
            return self
        try:
            headers_of(headers.get_secret_value())
        except ValueError as error:
            raise ValueError(f"OTEL_EXPORTER_OTLP_HEADERS {error}") from error
        if endpoint is not None:
            # They are a credential.
            self.require_https("OTEL_EXPORTER_OTLP_ENDPOINT with headers", endpoint)
        return self

    @model_validator(mode="after")
    def _crash_points_are_for_local_stacks(self) -> "ServiceSettings":
        if self.webhost_crash_file is not None and not self.webhost_local_stack:
            raise ValueError("WEBHOST_CRASH_FILE is for the local stack only")
        return self

    def require_https(self, name: str, url: str) -> None:
        """Refuse a public address that is not https, outside of the local stack."""
        if not self.webhost_local_stack and urlsplit(url).scheme != "https":
            raise ValueError(f"{name} must be an https address")


class MakesStreams(ServiceSettings):
    """Settings of a service that makes streams where they are missing."""

    nats_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """How many servers of the NATS cluster hold each stream that this service makes: 3 where there
    are three. A stream that is there already stays as it is."""


class HoldsKeys(ServiceSettings):
    """Settings of a service that holds keys of the platform's, see `keys_watch`."""

    keys_file: Path | None = None
    """A file of `NAME=value` lines with the settings of this service that hold the platform's keys,
    which they then are instead of the variables. It is read again when it changes (replace it
    whole), so that keys are taken up without a restart; only the deployer ends to be started anew.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let what the keys' file says hold instead of the environment."""
        file = os.environ.get("KEYS_FILE")
        keys = [DotEnvSettingsSource(settings_cls, env_file=file)] if file else []
        return (init_settings, *keys, env_settings)

    @field_validator("keys_file")
    @classmethod
    def _keys_file_is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("there is no such file")
        return path


class LongestCall(ServiceSettings):
    """How long a call to an agent may take."""

    longest_call_s: PositiveFloat = 60.0
    """Seconds that a call may take; the same for gateway, api and billing."""


class Tiered(ServiceSettings):
    """What each tier allows."""

    webhost_tiers_file: Path | None = None
    """A TOML file of what each tier allows; if not set, the product's own tiers apply."""

    @field_validator("webhost_tiers_file")
    @classmethod
    def _tiers_are_usable(cls, path: Path | None) -> Path | None:
        load_tiers(path)
        return path

    def tiers(self) -> dict[str, Entitlements]:
        """Return what each tier allows. Raises TiersError."""
        return load_tiers(self.webhost_tiers_file)


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ip_network(value)
        except ValueError as error:
            raise ValueError(f"'{value}' is no address and no network") from error
    return values


class CountsAddresses(ServiceSettings):
    """Settings of a service that limits what an address may ask."""

    trusted_proxies: Annotated[CommaList, AfterValidator(_networks)] = ()
    """The addresses or networks of the proxies whose `X-Forwarded-For` says who the client is; if
    not set, the client is who connects, and all that come through one proxy are limited as one."""


class UserFacingSettings(Tiered):
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


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], program: str) -> S:
    """Return the settings from the environment, or end the process with one clear line."""
    try:
        return kind()
    except ValidationError as error:
        missing = [str(e["loc"][0]).upper() for e in error.errors() if e["type"] == "missing"]
        invalid = [
            f"{'.'.join(str(part) for part in e['loc']).upper()}: {_said(e['msg'])}".lstrip(": ")
            for e in error.errors()
            if e["type"] != "missing"
        ]
        parts = [f"missing {', '.join(missing)}"] if missing else []
        sys.stderr.write(f"{program}: cannot start: {'; '.join(parts + invalid)}\n")
        sys.exit(EXIT_MISCONFIGURED)


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")
