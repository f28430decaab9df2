"""Every identity and key of an installation, which are made once."""

import secrets

import msgspec
from webhost_contracts import operator_tokens
from webhost_contracts.platform_keys import (
    INVOKE_PRIVATE_KEYS,
    KINDS,
    PLATFORM_PRIVATE_KEYS,
    TELEMETRY_MASTER_KEYS,
    Kind,
)

from webhost_local.installation.platform_keys import Ring, new_seed, text_of
from webhost_local.installation.services import OPERATOR, SERVICES

FIRST_KEYS = {
    "telemetry": "telemetry_master_key",
    "invoke": "invoke_seed",
    "platform": "platform_seed",
    "secrets": "secrets_key",
}
"""The field that holds the key of each kind until its first rotation."""

KEY_HOLDERS = tuple(sorted({place.service for kind in KINDS.values() for place in kind.lists}))


def _password() -> str:
    return secrets.token_urlsafe(24)


def _hex() -> str:
    return secrets.token_hex(16)  # the form of Cloudflare's account and zone ids


def _passwords() -> dict[str, str]:
    return {name: _password() for name in (*SERVICES, OPERATOR)}


def _operator_token() -> str:
    return operator_tokens.token_of(secrets.token_bytes(operator_tokens.SECRET_BYTES))


def _role_passwords() -> dict[str, str]:
    return {name: _password() for name in SERVICES}


class Identities(msgspec.Struct, rename="camel", kw_only=True):
    """What the parts are known by. A field that the file lacks is made when it is read.

    Passwords are by service name; key pairs are 32-byte seeds in base64url, without padding.
    """

    installation_id: str = msgspec.field(default_factory=lambda: f"ins_{secrets.token_hex(8)}")
    postgres_superuser: str = msgspec.field(default_factory=_password)
    postgres_roles: dict[str, str] = msgspec.field(default_factory=_role_passwords)
    postgres_owners: dict[str, str] = msgspec.field(default_factory=_role_passwords)
    nats_users: dict[str, str] = msgspec.field(default_factory=_passwords)
    nats_routes: str = msgspec.field(default_factory=_password)
    operator_token: str = msgspec.field(default_factory=_operator_token)
    api_response_key: str = msgspec.field(default_factory=new_seed)
    telemetry_master_key: str = msgspec.field(default_factory=new_seed)
    invoke_seed: str = msgspec.field(default_factory=new_seed)
    response_key: str = msgspec.field(default_factory=new_seed)
    platform_seed: str = msgspec.field(default_factory=new_seed)
    secrets_key: str = msgspec.field(default_factory=new_seed)
    rings: dict[str, Ring] = msgspec.field(default_factory=dict[str, Ring])
    lemonsqueezy_api_key: str = msgspec.field(default_factory=_password)
    lemonsqueezy_webhook_secret: str = msgspec.field(default_factory=_password)
    lemonsqueezy_checkout_key: str = msgspec.field(default_factory=new_seed)
    cloudflare_api_token: str = msgspec.field(default_factory=_password)
    cloudflare_account_id: str = msgspec.field(default_factory=_hex)
    cloudflare_zone_id: str = msgspec.field(default_factory=_hex)

    @property
    def api_response_keys(self) -> str:
        return f"response-1:{self.api_response_key}"

    @property
    def operator_tokens(self) -> str:
        return f"{OPERATOR}:{operator_tokens.hash_of(self.operator_token)}"

    def ring(self, kind: Kind) -> Ring:
        """The keys of this kind: those of a rotation, or the one that was made first."""
        first = getattr(self, FIRST_KEYS[kind.name])
        return self.rings.get(kind.name) or Ring({kind.first: first}, kind.first)

    def settings_of(self, service: str) -> dict[str, str]:
        """The settings of a service that hold platform keys."""
        return {
            place.setting: text_of(place, kind, self.ring(kind))
            for kind in KINDS.values()
            for place in kind.lists
            if place.service == service
        }

    def keys_file_of(self, service: str) -> str:
        """The text of a service's KEYS_FILE."""
        return "".join(f"{name}={text}\n" for name, text in self.settings_of(service).items())

    @property
    def telemetry_master_keys(self) -> str:
        return self.settings_of("telemetry-ingest")[TELEMETRY_MASTER_KEYS]

    @property
    def invoke_private_keys(self) -> str:
        return self.settings_of("gateway")[INVOKE_PRIVATE_KEYS]

    @property
    def response_keys(self) -> str:
        return f"response-1:{self.response_key}"

    @property
    def platform_private_keys(self) -> str:
        return self.settings_of("deployer")[PLATFORM_PRIVATE_KEYS]
