"""The environment of every process of the stack: each gets what it needs and nothing else."""

import json
import os
from dataclasses import dataclass

from webhost_local.data_dir import DataDir
from webhost_local.installation.bus_accounts import ACCESS
from webhost_local.installation.identities import KEY_HOLDERS, Identities
from webhost_local.installation.postgres_roles import DATABASE, role
from webhost_local.lemonsqueezy.model import STORE_ID, VARIANTS
from webhost_local.ports import LOOPBACK
from webhost_local.postgres_server import Cluster
from webhost_local.replicas import SERVED, Replicas
from webhost_local.supervisor import mark

WORKERS_DOMAIN = "workers.localhost"
WORKERS_DEV_SUBDOMAIN = "local"

# What is inherited from the shell that runs `webhost up`: none of its user's credentials.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
# Settings that every service takes from that shell where they are set there.
_SETTINGS = (
    "LONGEST_CALL_S",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_TRACES_SAMPLER_ARG",
)
_DEPLOYERS_SETTINGS = (
    "CLOUDFLARE_DISPATCH_NAMESPACE",
    "CLOUDFLARE_RETIRED_DISPATCH_NAMESPACE",
    "AGENT_EGRESS",
)
_DASHBOARD_DEV_PORT = 5173
DRAIN_S = 1.5
"""For services with replicas: longer than the public origin takes to notice."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Everything the processes' settings are made of.

    `ports` by process, `<name>-ops` beside; `nats` are the names of the NATS servers.
    """

    data_dir: DataDir
    identities: Identities
    cluster: Cluster
    issuer: str
    origin_port: int
    ports: dict[str, int]
    replicas: Replicas
    nats: list[str]
    coloured: bool

    @property
    def origin(self) -> str:
        return f"http://{LOOPBACK}:{self.origin_port}"

    @property
    def cloudflare_api(self) -> str:
        return f"{self.url('edge')}/client/v4"

    @property
    def base(self) -> dict[str, str]:
        """For processes of any kind."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return inherited | {"PYTHONUNBUFFERED": "1"} | mark(self.data_dir)

    def listen(self, name: str) -> str:
        return f"{LOOPBACK}:{self.ports[name]}"

    def url(self, name: str) -> str:
        return f"http://{self.listen(name)}"

    def nats_url(self, user: str) -> str:
        """The URL of each NATS server, with commas between them."""
        login = f"{user}:{self.identities.nats_users[user]}"
        return ",".join(f"nats://{login}@{self.listen(name)}" for name in self.nats)

    def edge(self) -> dict[str, str]:
        return self.base | {
            "EDGE_DATA_DIR": str(self.data_dir.edge),
            "EDGE_LISTEN": f"{LOOPBACK}:{self.origin_port}",
            "EDGE_API_LISTEN": self.listen("edge"),
            "EDGE_ACCOUNT_ID": self.identities.cloudflare_account_id,
            "EDGE_ZONE_ID": self.identities.cloudflare_zone_id,
            "EDGE_API_TOKEN": self.identities.cloudflare_api_token,
            "EDGE_WORKERS_DEV_SUBDOMAIN": WORKERS_DEV_SUBDOMAIN,
            "EDGE_PRIVATE_ADDRESSES": f"{LOOPBACK}:{self.origin_port}",
            "EDGE_OPEN_ADDRESSES": os.environ.get("AGENTS_MAY_REACH", ""),
            "EDGE_UPSTREAM_API": self._upstream("api"),
            "EDGE_UPSTREAM_GATEWAY": self._upstream("gateway"),
            "EDGE_UPSTREAM_TELEMETRY": self._upstream("telemetry-ingest"),
            "EDGE_READINESS": json.dumps(
                {
                    self.url(name): f"{self.url(f'{name}-ops')}/readyz"
                    for kind in SERVED
                    for name in self.replicas[kind]
                }
            ),
        }

    def _upstream(self, kind: str) -> str:
        return ",".join(map(self.url, self.replicas[kind]))

    def issuer_process(self) -> dict[str, str]:
        return self.base | {
            "ISSUER_DATA_DIR": str(self.data_dir.root),
            "CORS_ALLOWED_ORIGINS": self._browser_origins,
        }

    def lemonsqueezy(self) -> dict[str, str]:
        """For what stands in for LemonSqueezy."""
        return self.base | {
            "STORE_LISTEN": self.listen("lemonsqueezy"),
            "STORE_DATA_DIR": str(self.data_dir.root / "lemonsqueezy"),
            "STORE_API_KEY": self.identities.lemonsqueezy_api_key,
            "STORE_WEBHOOK_URL": f"{self.origin}/v1/billing/webhook",
            "STORE_WEBHOOK_SECRET": self.identities.lemonsqueezy_webhook_secret,
        }

    def service(self, kind: str, name: str) -> dict[str, str]:
        """For the replica `name` of the service `kind`."""
        keys = self.identities.settings_of(kind)
        if kind in KEY_HOLDERS:
            keys["KEYS_FILE"] = str(self.data_dir.keys / kind)
        streams = {"NATS_REPLICAS": str(len(self.nats))} if ACCESS[kind].makes else {}
        return self.base | self._every_service(kind, name) | self._own(kind, name) | keys | streams

    def _every_service(self, kind: str, name: str) -> dict[str, str]:
        # Named crash points belong to the stack that a test starts with this variable.
        return _given("WEBHOST_CRASH_FILE", *_SETTINGS) | {
            "WEBHOST_LOCAL_STACK": "true",
            "WEBHOST_INSTALLATION_ID": self.identities.installation_id,
            "NATS_URL": self.nats_url(kind),
            "DATABASE_URL": self.cluster.dsn(
                DATABASE, user=role(kind), password=self.identities.postgres_roles[kind]
            ),
            "OPS_LISTEN": self.listen(f"{name}-ops"),
            "LOG_FORMAT": "console" if self.coloured else "json",
            "DRAIN_S": str(DRAIN_S if len(self.replicas[kind]) > 1 else 0),
        }

    def _own(self, kind: str, name: str) -> dict[str, str]:
        keys = self.identities
        connect_to = f"{LOOPBACK}:{self.origin_port}"
        users = {"JWT_ISSUER": self.issuer, "CORS_ALLOWED_ORIGINS": self._browser_origins}
        behind_edge = {"TRUSTED_PROXIES": LOOPBACK}
        match kind:
            case "api":
                own = {
                    "LISTEN": self.listen(name),
                    "RESPONSE_KEYS": keys.api_response_keys,
                    "OPERATOR_TOKENS": keys.operator_tokens,
                }
                return users | behind_edge | own
            case "gateway":
                return (
                    users
                    | behind_edge
                    | _given("DELEGATION_SECRETS")
                    | {
                        "LISTEN": self.listen(name),
                        "RESPONSE_KEYS": keys.response_keys,
                        "WORKERS_CONNECT_TO": connect_to,
                    }
                )
            case "telemetry-ingest":
                return behind_edge | {"LISTEN": self.listen(name)}
            case "billing":
                return {
                    "LEMONSQUEEZY_API_BASE_URL": self.url("lemonsqueezy"),
                    "LEMONSQUEEZY_API_KEY": keys.lemonsqueezy_api_key,
                    "LEMONSQUEEZY_STORE_ID": str(STORE_ID),
                    "LEMONSQUEEZY_VARIANTS": ",".join(
                        f"{variant.id}:{tier}" for tier, variant in VARIANTS.items()
                    ),
                    "LEMONSQUEEZY_WEBHOOK_SECRETS": keys.lemonsqueezy_webhook_secret,
                    "LEMONSQUEEZY_CHECKOUT_KEYS": f"checkout-1:{keys.lemonsqueezy_checkout_key}",
                    "LEMONSQUEEZY_TEST_MODE": "true",
                }
            case "deployer":
                return (
                    _agent_egress()
                    | _given(*_DEPLOYERS_SETTINGS)
                    | {
                        "CLOUDFLARE_ACCOUNT_ID": keys.cloudflare_account_id,
                        "CLOUDFLARE_API_TOKEN": keys.cloudflare_api_token,
                        "CLOUDFLARE_API_BASE_URL": self.cloudflare_api,
                        "CLOUDFLARE_ZONE_ID": keys.cloudflare_zone_id,
                        "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": WORKERS_DOMAIN,
                        "CONTROL_PLANE_TELEMETRY_REPORT_URL": f"{self.origin}/v1/telemetry/report",
                        "WORKERS_CONNECT_TO": connect_to,
                    }
                )
            case _:
                raise ValueError(f"no such service: {kind}")

    @property
    def _browser_origins(self) -> str:
        ports = (self.origin_port, _DASHBOARD_DEV_PORT)
        return ",".join(f"http://{host}:{p}" for p in ports for host in (LOOPBACK, "localhost"))


def _given(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _agent_egress() -> dict[str, str]:
    """What the outbound Worker lets through beside public hosts, where there is one."""
    reached = os.environ.get("AGENTS_MAY_REACH")
    if not reached or "CLOUDFLARE_DISPATCH_NAMESPACE" not in os.environ:
        return {}
    return {"AGENT_EGRESS": json.dumps({"default": ["*", *reached.split(",")]})}
