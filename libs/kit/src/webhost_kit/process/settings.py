"""How every service reads its environment: typed, validated before anything connects.

Secrets print masked. An empty variable counts as missing. A missing or invalid variable ends the
process with one line that names it.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import unquote, urlsplit

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
    NoDecode,
    SettingsConfigDict,
)
from webhost_contracts.bus_urls import servers_of
from webhost_contracts.entitlements import Entitlements, load_tiers

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
    """The share, from 0 to 1, of the requests from outside that are recorded, with all that follows
    from them. It is drawn once the sender is known, whatever the caller's `traceparent` says."""
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


def headers_of(value: str) -> dict[str, str]:
    """Return the headers of `name=value,…` with percent-encoded values. Raises ValueError."""
    headers: dict[str, str] = {}
    for part in filter(None, map(str.strip, value.split(","))):
        name, equals, text = part.partition("=")
        if not equals or not name.strip():
            raise ValueError("must be name=value,…")
        headers[name.strip().lower()] = unquote(text.strip())
    return headers


class StreamSettings(ServiceSettings):
    """Settings of a service that makes streams where they are missing."""

    nats_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """How many servers of the NATS cluster hold each stream that this service makes: 3 where there
    are three. A stream that is there already stays as it is."""


class CallTimeoutSettings(ServiceSettings):
    """How long a call to an agent may take."""

    longest_call_s: PositiveFloat = 60.0
    """Seconds that a call may take; the same for gateway, api and billing."""


class TierSettings(ServiceSettings):
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
