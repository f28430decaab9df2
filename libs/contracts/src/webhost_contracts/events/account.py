"""Facts about what a user may use, stated by billing."""

from webhost_contracts.events.base import Event


class TierChanged(Event, frozen=True, kw_only=True, tag="account.tier_changed.v1"):
    """The user's tier changed."""

    tier: str
    previous_tier: str
    source: str
