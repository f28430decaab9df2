"""Every identity and key of one local stack, made once and kept in `secrets.json` (0600)."""

import base64
import secrets

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from webhost_local.data_dir import DataDir, write_whole
from webhost_local.nats_accounts import OPERATOR, SERVICES


def _password() -> str:
    return secrets.token_urlsafe(24)


def _key() -> str:
    return _base64url(secrets.token_bytes(32))


def _hex() -> str:
    return secrets.token_hex(16)  # the form of Cloudflare's account and zone ids


def _passwords() -> dict[str, str]:
    return {name: _password() for name in (*SERVICES, OPERATOR)}


def _role_passwords() -> dict[str, str]:
    return {name: _password() for name in SERVICES}


class Identities(msgspec.Struct, rename="camel", kw_only=True):
    """What the stack's parts are known by. A field that the file lacks is made when it is read.

    Passwords are by service name; key pairs are 32-byte seeds in base64url, without padding.
    """

    installation_id: str = msgspec.field(default_factory=lambda: f"ins_{secrets.token_hex(8)}")
    postgres_superuser: str = msgspec.field(default_factory=_password)
    postgres_roles: dict[str, str] = msgspec.field(default_factory=_role_passwords)
    postgres_owners: dict[str, str] = msgspec.field(default_factory=_role_passwords)
    nats_users: dict[str, str] = msgspec.field(default_factory=_passwords)
    api_response_key: str = msgspec.field(default_factory=_key)
    telemetry_master_key: str = msgspec.field(default_factory=_key)
    invoke_seed: str = msgspec.field(default_factory=_key)
    response_key: str = msgspec.field(default_factory=_key)
    platform_seed: str = msgspec.field(default_factory=_key)
    secrets_key: str = msgspec.field(default_factory=_key)
    cloudflare_api_token: str = msgspec.field(default_factory=_password)
    cloudflare_account_id: str = msgspec.field(default_factory=_hex)
    cloudflare_zone_id: str = msgspec.field(default_factory=_hex)

    @property
    def api_response_keys(self) -> str:
        return f"response-1:{self.api_response_key}"

    @property
    def telemetry_master_keys(self) -> str:
        return f"1:{self.telemetry_master_key}"

    @property
    def invoke_private_keys(self) -> str:
        return f"invoke-1:{self.invoke_seed}"

    @property
    def invoke_public_keys(self) -> str:
        return f"invoke-1:{_public_half(self.invoke_seed)}"

    @property
    def response_keys(self) -> str:
        return f"response-1:{self.response_key}"

    @property
    def platform_private_keys(self) -> str:
        return f"platform-1:{self.platform_seed}"

    @property
    def secrets_private_keys(self) -> str:
        return f"secrets-1:{self.secrets_key}"

    @property
    def secrets_public_key(self) -> str:
        return f"secrets-1:{_x25519_public_half(self.secrets_key)}"


def load_or_make(data_dir: DataDir) -> Identities:
    """Read the identities, and make what is missing. The caller holds the directory's lock."""
    file = data_dir.secrets
    kept = file.read_bytes() if file.exists() else b"{}"
    identities = msgspec.json.decode(kept, type=Identities)
    complete = msgspec.json.format(msgspec.json.encode(identities))
    if complete != kept:
        write_whole(file, complete.decode())
    return identities


def role(service: str) -> str:
    """The Postgres role of a service."""
    return f"webhost_{schema(service)}"


def owner(service: str) -> str:
    """The Postgres role that owns a service's schema, and migrates it."""
    return f"{role(service)}_owner"


def schema(service: str) -> str:
    """The Postgres schema of a service."""
    return service.replace("-", "_")


def _public_half(seed: str) -> str:
    raw = base64.urlsafe_b64decode(seed + "=")
    key = Ed25519PrivateKey.from_private_bytes(raw).public_key()
    return _base64url(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def _x25519_public_half(key: str) -> str:
    raw = base64.urlsafe_b64decode(key + "=")
    public = X25519PrivateKey.from_private_bytes(raw).public_key()
    return _base64url(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
