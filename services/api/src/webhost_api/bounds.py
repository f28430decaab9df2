"""What a user can make grow for ever, and the tier's bounds on it. Pure.

Bounded are agents ever created, deploys an hour and a day, and changes (facts) a day. What ends an
agent's work, or a key, is never refused: its deletion is bounded by its creation, a disable by the
enable before it. Nor is anything that follows from what was allowed, such as the end of a deploy.
"""

from collections.abc import Callable, Sequence
from math import ceil

from msgspec import Struct
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.events import (
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    DeploymentRequested,
    Event,
    KeyRevoked,
)
from webhost_kit.errors import LimitExceeded, RateLimited

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

NEVER_REFUSED = (AgentDeleted, AgentDisabled, KeyRevoked)


class Window(Struct, frozen=True):
    """A bound on how often something happens: as often in `window_ms` as the tier's limit says,
    None without end. `otherwise` is what else a user can do than to wait.
    """

    name: str
    what: str
    limit_of: Callable[[Entitlements], int | None]
    window_ms: int
    otherwise: str = "or upgrade it"

    def refusal(self, allowed: Entitlements, wait_ms: int) -> RateLimited:
        """Return the refusal of one more; time gives it back."""
        limit = self.limit_of(allowed) or 0
        wait = _in_words(_seconds(wait_ms))
        return full(
            self.name,
            f"Your plan allows {limit:,} {self.what}. Wait {wait}, {self.otherwise}.",
            current=limit,
            limit=limit,
            window_ms=self.window_ms,
            wait_ms=wait_ms,
        )


def full(
    name: str, message: str, *, current: int, limit: int, window_ms: int, wait_ms: int
) -> RateLimited:
    """Return the refusal of one more, where `wait_ms` give room again."""
    return RateLimited(
        name,
        limit=limit,
        window_s=window_ms // 1000,
        wait_s=_seconds(wait_ms),
        message=message,
        details={
            "limitType": name,
            "current": current,
            "limit": limit,
            "suggestedAction": "wait",
        },
    )


DEPLOYS_AN_HOUR = Window(
    "deploysPerHour", "deploys an hour", lambda tier: tier.deploys_per_hour, HOUR_MS
)
DEPLOYS_A_DAY = Window("deploysPerDay", "deploys a day", lambda tier: tier.deploys_per_day, DAY_MS)
CHANGES_A_DAY = Window("changesPerDay", "changes a day", lambda tier: tier.changes_per_day, DAY_MS)
SECRETS_A_DAY = Window(
    "secretChangesPerDay",
    "changes to an agent's secrets a day",
    lambda tier: tier.changes_per_day,
    DAY_MS,
)
"""Of one agent; the deployer counts them."""
KEYS_A_DAY = Window(
    "idempotencyKeysPerDay",
    "idempotency keys a day",
    lambda tier: tier.changes_per_day,
    DAY_MS,
    "send the request without a key, or upgrade it",
)
"""Of those that are remembered; without a key, nothing is."""


class Spent(Struct, frozen=True, kw_only=True):
    """What a user has used up: agents ever created, and until when each full window is full."""

    agents_created: int = 0
    full_until_ms: dict[Window, int] = {}


def require_room(events: Sequence[Event], spent: Spent, allowed: Entitlements, now_ms: int) -> None:
    """Raise LimitExceeded or RateLimited where these facts are beyond the tier's bounds."""
    if all(isinstance(event, NEVER_REFUSED) for event in events):
        return
    windows = [CHANGES_A_DAY]
    if any(isinstance(event, DeploymentRequested) for event in events):
        windows += [DEPLOYS_AN_HOUR, DEPLOYS_A_DAY]
    for window in windows:
        if (until_ms := spent.full_until_ms.get(window)) is not None:
            raise window.refusal(allowed, until_ms - now_ms)
    most = allowed.agents_created
    creates = any(isinstance(event, AgentCreated) for event in events)
    if creates and most is not None and spent.agents_created >= most:
        raise LimitExceeded(
            f"Your plan allows {most:,} agents over all time, deleted ones included. Change the"
            " agents that you have, or upgrade it.",
            details={
                "limitType": "agentsCreated",
                "current": spent.agents_created,
                "limit": most,
                "suggestedAction": "upgrade",
            },
        )


def _seconds(wait_ms: int) -> int:
    return max(1, ceil(wait_ms / 1000))


def _in_words(seconds: int) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds > 2 * size:
            return f"{ceil(seconds / size)} {unit}"
    return f"{seconds} s"
