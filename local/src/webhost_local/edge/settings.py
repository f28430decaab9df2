"""The local edge's environment, typed and validated before anything starts."""

import subprocess
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from webhost_local.edge.errors import WorkerdMissing


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected host:port")
    return value


def _addresses(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(_host_and_port(each.strip()) for each in value.split(",") if each.strip())


Addresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_addresses)]
Listen = Annotated[str, AfterValidator(_host_and_port)]


class EdgeSettings(BaseSettings):
    """Every variable begins with `EDGE_`.

    An upstream is one base URL, or several with commas between them, which are replicas of one
    service; one that is not set answers UNAVAILABLE. `readiness` says where a replica tells whether
    it is ready, as JSON, by base URL. Scripts reach public addresses, the
    `open_addresses` (`host:port`, several with commas between them), and those of the
    `private_addresses` that one of their variables names.
    """

    model_config = SettingsConfigDict(env_prefix="EDGE_", env_ignore_empty=True)

    data_dir: Path
    listen: Listen
    api_listen: Listen
    account_id: str = Field(min_length=1)
    zone_id: str = Field(min_length=1)
    api_token: SecretStr = Field(min_length=1)
    workers_dev_subdomain: str = "local"
    upstream_api: str | None = None
    upstream_gateway: str | None = None
    upstream_telemetry: str | None = None
    readiness: dict[str, str] = Field(default_factory=dict[str, str])
    private_addresses: Addresses = ()
    open_addresses: Addresses = ()
    workerd: FilePath | None = None
    idle_seconds: float = Field(default=60, gt=0)
    api_rate_limit: int = Field(default=1200, gt=0)

    def replicas(self, upstream: str | None) -> tuple[str, ...]:
        """The base URLs of an upstream, without a slash at the end."""
        urls = (url.strip().rstrip("/") for url in (upstream or "").split(","))
        return tuple(url for url in urls if url)

    def workerd_path(self) -> Path:
        """The configured binary, else the one that npm installed in this checkout.

        Raises WorkerdMissing when there is neither.
        """
        if self.workerd is not None:
            return self.workerd.resolve()
        for parent in Path(__file__).resolve().parents:
            for found in sorted(parent.glob("node_modules/@cloudflare/workerd-*/bin/workerd")):
                return found
        raise WorkerdMissing("no workerd binary found: run npm ci, or set EDGE_WORKERD")


def newest_compatibility_date(workerd: Path) -> str:
    """The date in `workerd --version`, as YYYY-MM-DD: the binary knows every flag up to it."""
    output = subprocess.run(  # noqa: S603
        [workerd, "--version"], capture_output=True, text=True, check=True
    )
    date = output.stdout.split()[-1]
    datetime.strptime(date, "%Y-%m-%d")  # noqa: DTZ007
    return date
