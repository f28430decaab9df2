"""What a user can make grow for ever, and the tier's bounds on it. Pure.

Bounded are agents ever created, deploys an hour and a day, and changes (facts) a day. What ends an
agent's work is never refused: its deletion is bounded by its creation, a disable by the enable
before it. Nor is anything that follows from what was allowed, such as the end of a deploy.
"""

from collections.abc import Sequence
from math import ceil

from msgspec import Struct
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.events import (
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    DeploymentRequested,
    Event,
)
from webhost_kit.errors import LimitExceeded, Problem, RateLimited

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

NEVER_REFUSED = (AgentDeleted, AgentDisabled)


class Window(Struct, frozen=True, kw_only=True):
    """A bound on how often something happens: `limit` times in `window_ms`, None without end.
    `otherwise` is what else a user can do than to wait.
    """

    name: str
    what: str
    limit: int | None
    window_ms: int
    otherwise: str = "or upgrade it"


class Spent(Struct, frozen=True, kw_only=True):
    """What a user has used up: agents ever created, and until when a window is full, by its name.
    A window that has room is absent.
    """

    agents_created: int = 0
    full_until_ms: dict[str, int] = {}


class OverBound(RateLimited):
    """Too often within a window that the tier bounds; time gives it back."""

    def __init__(self, window: Window, wait_ms: int) -> None:
        limit = window.limit or 0
        wait_s = max(1, ceil(wait_ms / 1000))
        Problem.__init__(
            self,
            f"Your plan allows {limit:,} {window.what}. Wait {_in_words(wait_s)},"
            f" {window.otherwise}.",
            details={
                "limitType": window.name,
                "current": limit,
                "limit": limit,
                "suggestedAction": "wait",
            },
            retry_after_s=wait_s,
        )
        self.policy = window.name
        self.limit = limit
        self.window_s = window.window_ms // 1000
        self.wait_s = wait_s


def deploys_an_hour(allowed: Entitlements) -> Window:
    """Return the bound on deploys an hour."""
    return Window(
        name="deploysPerHour",
        what="deploys an hour",
        limit=allowed.deploys_per_hour,
        window_ms=HOUR_MS,
    )


def deploys_a_day(allowed: Entitlements) -> Window:
    """Return the bound on deploys a day."""
    return Window(
        name="deploysPerDay",
        what="deploys a day",
        limit=allowed.deploys_per_day,
        window_ms=DAY_MS,
    )


def changes_a_day(allowed: Entitlements) -> Window:
    """Return the bound on changes a day."""
    return Window(
        name="changesPerDay",
        what="changes to agents a day",
        limit=allowed.changes_per_day,
        window_ms=DAY_MS,
    )


def keys_a_day(allowed: Entitlements) -> Window:
    """Return the bound on idempotency keys that are remembered; without a key, nothing is."""
    return Window(
        name="idempotencyKeysPerDay",
        what="idempotency keys a day",
        limit=allowed.changes_per_day,
        window_ms=DAY_MS,
        otherwise="send the request without a key, or upgrade it",
    )


def require_room(events: Sequence[Event], spent: Spent, allowed: Entitlements, now_ms: int) -> None:
    """Raise LimitExceeded or OverBound where these facts are beyond the tier's bounds."""
    if all(isinstance(event, NEVER_REFUSED) for event in events):
        return
    windows = [changes_a_day(allowed)]
    if any(isinstance(event, DeploymentRequested) for event in events):
        windows += [deploys_an_hour(allowed), deploys_a_day(allowed)]
    for window in windows:
        until_ms = spent.full_until_ms.get(window.name)
        if until_ms is not None:
            raise OverBound(window, until_ms - now_ms)
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


def _in_words(seconds: int) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds > 2 * size:
            return f"{ceil(seconds / size)} {unit}"
    return f"{seconds} s"
