"""The values of a new installation's `.env`: keys, passwords, in the local profile all. Pure.

Given the identities, which are random, the rest follows.
"""

from collections.abc import Mapping

from webhost_local.compose.variables import name_of, own, prefix
from webhost_local.installation.bus_accounts import password_variable
from webhost_local.installation.identities import Identities
from webhost_local.installation.services import SERVICES
from webhost_local.lemonsqueezy.model import STORE_ID, VARIANTS

_ORIGIN = "origin:8080"
_EDGE = "edge:8787"
_EDGE_API = "edge:8788"


def secrets_of(known: Identities) -> dict[str, str]:
    """What every installation has of its own, by variable."""
    values = {
        "WEBHOST_INSTALLATION_ID": known.installation_id,
        "POSTGRES_PASSWORD": known.postgres_superuser,
        "OPERATOR_TOKEN": known.operator_token,
        "OPERATOR_TOKENS": known.operator_tokens,
        "API_RESPONSE_KEYS": known.api_response_keys,
        "GATEWAY_RESPONSE_KEYS": known.response_keys,
    }
    for service in SERVICES:
        values[f"POSTGRES_PASSWORD_OF_{prefix(service)}"] = known.postgres_roles[service]
        values[f"POSTGRES_PASSWORD_OF_{prefix(service)}_OWNER"] = known.postgres_owners[service]
        for setting, text in known.settings_of(service).items():
            values[name_of(service, setting)] = text
    for user, password in known.nats_users.items():
        values[f"NATS_{password_variable(user)}"] = password
    return values


def local_values(known: Identities, ports: Mapping[str, str] | None = None) -> dict[str, str]:
    """What leads to the stand-ins of the profile `local`; `ports` other than the default."""
    chosen = {one.name: one.value or "" for one in own()} | dict(ports or {})
    origins = [f"http://{host}:{chosen['ORIGIN_PORT']}" for host in ("127.0.0.1", "localhost")]
    return {
        "WEBHOST_LOCAL_STACK": "true",
        "JWT_ISSUER": f"http://127.0.0.1:{chosen['ISSUER_PORT']}",
        "JWT_JWKS_URL": f"http://issuer:{chosen['ISSUER_PORT']}/jwks",
        "CORS_ALLOWED_ORIGINS": ",".join(origins),
        "CLOUDFLARE_ACCOUNT_ID": known.cloudflare_account_id,
        "CLOUDFLARE_ZONE_ID": known.cloudflare_zone_id,
        "CLOUDFLARE_API_TOKEN": known.cloudflare_api_token,
        "CLOUDFLARE_API_BASE_URL": f"http://{_EDGE_API}/client/v4",
        "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": "workers.localhost",
        "CONTROL_PLANE_TELEMETRY_REPORT_URL": f"http://{_ORIGIN}/v1/telemetry/report",
        "WORKERS_CONNECT_TO": _EDGE,
        "LEMONSQUEEZY_API_BASE_URL": f"http://lemonsqueezy:{chosen['STORE_PORT']}",
        "LEMONSQUEEZY_API_KEY": known.lemonsqueezy_api_key,
        "LEMONSQUEEZY_STORE_ID": str(STORE_ID),
        "LEMONSQUEEZY_VARIANTS": ",".join(
            f"{variant.id}:{tier}" for tier, variant in VARIANTS.items()
        ),
        "LEMONSQUEEZY_WEBHOOK_SECRETS": known.lemonsqueezy_webhook_secret,
        "LEMONSQUEEZY_CHECKOUT_KEYS": f"checkout-1:{known.lemonsqueezy_checkout_key}",
        "LEMONSQUEEZY_TEST_MODE": "true",
    }
