"""The deployer's environment."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator
from webhost_kit.keys import MasterKeys, Signer, parse_public_keys, parse_signers
from webhost_kit.process.keys_watch import PlatformKeySettings
from webhost_kit.process.settings import Address, StreamSettings, TierSettings
from webhost_kit.sealing import Opener

from webhost_deployer.cloudflare.addresses import CustomDomain, Routing, WorkersDev
from webhost_deployer.cloudflare.egress import Egress, parse

Namespace = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
PLAIN_ACCOUNT_SCRIPTS = 500
"""How many scripts a plain account of Cloudflare's may hold."""


class Settings(TierSettings, PlatformKeySettings, StreamSettings):
    """Settings of Cloudflare, of the keys, and of where Workers report."""

    cloudflare_account_id: str
    """The account that Workers are deployed to."""
    cloudflare_api_token: SecretStr
    """The API token for that account."""
    cloudflare_api_base_url: str | None = None
    """The base URL of Cloudflare's API; if not set, the public API."""
    cloudflare_zone_id: str | None = None
    """The zone of the custom domain; set both or neither."""
    cloudflare_workers_custom_domain: str | None = None
    """The custom domain at which Workers are served."""
    cloudflare_workers_dev_subdomain: str | None = None
    """The workers.dev subdomain; needed where there is no custom domain."""
    cloudflare_max_scripts: int | None = Field(default=None, ge=4)
    """How many scripts this installation may have; deployments beyond that are refused. By default
    500, or no limit where there is a dispatch namespace."""
    allow_workers_on_public_origin: bool = False
    """Allow Workers at the host of the public address: answers then come from its origin."""
    control_plane_telemetry_report_url: str
    """Where Workers report what calls used: the public `/v1/telemetry/report`."""
    telemetry_master_keys: SecretStr
    """`<version>:<base64url>,…`, 32 bytes each; deployments' telemetry keys derive from them."""
    invoke_public_keys: str
    """The gateway's public keys, `<key id>:<base64url>,…`, that Workers verify calls with."""
    platform_private_keys: SecretStr
    """Ed25519 keys, `<key id>:<base64url seed>,…`; the first one signs calls to Workers."""
    secrets_private_keys: SecretStr
    """X25519 keys, `<key id>:<base64url>,…`, that open customers' secrets. What is sealed for
    another one is sealed again for the first, whose public half the api has."""
    cloudflare_dispatch_namespace: Namespace | None = None
    """Workers for Platforms: the untrusted dispatch namespace that agents are deployed into."""
    cloudflare_retired_dispatch_namespace: Namespace | None = None
    """One that is not deployed into any more: what is left there is still removed."""
    agent_egress: str = '{"default": ["*"]}'
    """What agents in a dispatch namespace may reach, as JSON: `{"default": ["*"], "agents":
    {"agt_…": ["api.example.com", "*.example.org"]}}`. `*` is every public host; a private address
    is reached where it is named."""
    workers_connect_to: Address | None = None
    """In the local stack only: where the Workers' addresses really are."""
    session_idle_days: int = Field(default=30, ge=1)
    """Days after which an unused session expires."""
    reconcile_every_s: float = Field(default=300, gt=0)
    """Seconds between two reconciliations of the Cloudflare account."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Settings":
        self.require_https(
            "CONTROL_PLANE_TELEMETRY_REPORT_URL", self.control_plane_telemetry_report_url
        )
        if self.cloudflare_api_base_url is not None:
            self.require_https("CLOUDFLARE_API_BASE_URL", self.cloudflare_api_base_url)
        self._require_hosts_apart()
        if self.workers_connect_to is not None and not self.webhost_local_stack:
            raise ValueError("WORKERS_CONNECT_TO is for the local stack only")
        if self.cloudflare_dispatch_namespace and self.cloudflare_retired_dispatch_namespace:
            raise ValueError(
                "CLOUDFLARE_DISPATCH_NAMESPACE and CLOUDFLARE_RETIRED_DISPATCH_NAMESPACE exclude"
                " each other: from one namespace to another the way is through a plain account"
            )
        if self.egress != Egress() and self.cloudflare_dispatch_namespace is None:
            raise ValueError("AGENT_EGRESS needs CLOUDFLARE_DISPATCH_NAMESPACE")
        _ = self.routing, self.master_keys, self.signers, self.public_invoke_keys, self.opener
        return self

    def _require_hosts_apart(self) -> None:
        public = urlsplit(self.control_plane_telemetry_report_url).hostname
        allowed = self.webhost_local_stack or self.allow_workers_on_public_origin
        if not allowed and public == (self.cloudflare_workers_custom_domain or "").lower():
            raise ValueError(
                "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN is the host of"
                " CONTROL_PLANE_TELEMETRY_REPORT_URL: use another one, or set"
                " ALLOW_WORKERS_ON_PUBLIC_ORIGIN"
            )

    @property
    def routing(self) -> Routing:
        """Return how Workers are reached. Raises ValueError when that is half configured."""
        host, zone_id = self.cloudflare_workers_custom_domain, self.cloudflare_zone_id
        if host is not None and zone_id is not None:
            return CustomDomain(host, zone_id)
        if host is not None or zone_id is not None:
            raise ValueError(
                "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN and CLOUDFLARE_ZONE_ID go together: set both"
                " or neither"
            )
        if self.cloudflare_workers_dev_subdomain is None:
            raise ValueError(
                "CLOUDFLARE_WORKERS_DEV_SUBDOMAIN is needed where there is no"
                " CLOUDFLARE_WORKERS_CUSTOM_DOMAIN"
            )
        return WorkersDev(self.cloudflare_workers_dev_subdomain)

    @property
    def namespace(self) -> str | None:
        """Return the dispatch namespace that is in use or retired."""
        return self.cloudflare_dispatch_namespace or self.cloudflare_retired_dispatch_namespace

    @property
    def egress(self) -> Egress:
        """Return what agents in a dispatch namespace may reach."""
        return parse(self.agent_egress)

    @property
    def most_deployments(self) -> int | None:
        """Return for how many deployments there is room; None is without end.

        Each has two scripts, beside the session Worker; in a dispatch namespace one, beside the
        dispatch Worker and the outbound Worker too.
        """
        if self.cloudflare_dispatch_namespace is None:
            return ((self.cloudflare_max_scripts or PLAIN_ACCOUNT_SCRIPTS) - 1) // 2
        return self.cloudflare_max_scripts and self.cloudflare_max_scripts - 3

    @property
    def master_keys(self) -> MasterKeys:
        """Return what deployments' telemetry keys are derived from."""
        return MasterKeys.parse(self.telemetry_master_keys.get_secret_value())

    @property
    def signers(self) -> tuple[Signer, ...]:
        """Return the platform's keys; the first one signs."""
        return parse_signers(self.platform_private_keys.get_secret_value(), "PLATFORM_PRIVATE_KEYS")

    @property
    def opener(self) -> Opener:
        """Return what opens customers' secrets."""
        return Opener.parse(self.secrets_private_keys.get_secret_value(), "SECRETS_PRIVATE_KEYS")

    @property
    def public_invoke_keys(self) -> dict[str, str]:
        """Return the gateway's public keys, base64url by key id."""
        return parse_public_keys(self.invoke_public_keys, "INVOKE_PUBLIC_KEYS")
