"""Users, and what their tier allows."""

import msgspec
from webhost_contracts.entitlements import Entitlements

from webhost_api.schemas.base import OptionalText, Schema


class EntitlementsSchema(Schema):
    """What a tier allows; null is unlimited. Compute in milliseconds, rates per minute.

    `agents` counts those that are there, `agentsCreated` all that ever were; a change is a fact
    about an agent, such as that it was renamed, deployed or enabled. `cpuMs` and `subrequests` are
    an agent's processor time and requests in one call.
    """

    requests: int | None
    tokens: int | None
    compute_ms: int | None
    agents: int | None
    agents_created: int | None
    deploys_per_hour: int | None
    deploys_per_day: int | None
    changes_per_day: int | None
    concurrency: int | None
    cpu_ms: int | None
    subrequests: int | None
    requests_per_minute: int
    agentcore_enabled: bool
    telemetry_days: int
    log_days: int


class UserSchema(Schema):
    """The caller."""

    id: str
    subject: str
    email: OptionalText = None
    name: OptionalText = None
    tier: str
    entitlements: EntitlementsSchema
    created_at_ms: int


class UserResponse(Schema):
    """The caller."""

    user: UserSchema


def entitlements_schema(entitlements: Entitlements) -> EntitlementsSchema:
    """Return what a tier allows, as JSON."""
    return EntitlementsSchema(**msgspec.structs.asdict(entitlements))
