"""Pure: who may be on which tier."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from webhost_contracts import ids
from webhost_contracts.entitlements import DEFAULT_TIER
from webhost_contracts.events import Envelope, Event, TierChanged


@dataclass(frozen=True)
class Account:
    """What billing has decided about a user. Before the first decision: version 0, `free`."""

    user_id: str
    version: int = 0
    tier: str = DEFAULT_TIER

    @property
    def id(self) -> str:
        """Return the id that its facts have."""
        return self.user_id


def evolve(account: Account, envelope: Envelope, event: Event) -> Account:
    """Return what a fact makes of the account."""
    if not isinstance(event, TierChanged):
        raise TypeError(f"not a fact about an account: {event.type_name()}")
    return replace(account, version=envelope.version, tier=event.tier)


class Refused(Exception):
    """The request cannot be granted; the message says why."""


def set_tier(
    account: Account, tier: str, operator: str, tiers: Collection[str]
) -> list[TierChanged]:
    """Return the facts that put the user on this tier; none where they are on it already.

    Raises Refused for an unknown tier, or for what is no user id.
    """
    if not ids.has_prefix(account.user_id, ids.USER):
        raise Refused(f"'{account.user_id}' is not a user id")
    if tier not in tiers:
        raise Refused(f"there is no tier '{tier}'; there are {', '.join(sorted(tiers))}")
    if tier == account.tier:
        return []
    return [TierChanged(tier=tier, previous_tier=account.tier, source=f"operator:{operator}"[:200])]
