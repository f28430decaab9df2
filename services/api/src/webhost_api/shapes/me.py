"""Users, and what their tier allows."""

import msgspec
from webhost_contracts.entitlements import Entitlements

from webhost_api.shapes.base import OptionalText, Shape


class EntitlementsShape(Shape):
    """What a tier allows; null is unlimited. Compute in milliseconds, rates per minute."""

    requests: int | None
    tokens: int | None
    compute_ms: int | None
    agents: int | None
    concurrency: int | None
    requests_per_minute: int
    agentcore_enabled: bool
    telemetry_days: int
    log_days: int


class UserShape(Shape):
    """The caller."""

    id: str
    subject: str
    email: OptionalText = None
    name: OptionalText = None
    tier: str
    entitlements: EntitlementsShape
    created_at_ms: int


class UserAnswer(Shape):
    """The caller."""

    user: UserShape


def entitlements_shape(entitlements: Entitlements) -> EntitlementsShape:
    """Return what a tier allows as the doors give it."""
    return EntitlementsShape(**msgspec.structs.asdict(entitlements))
