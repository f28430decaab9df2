"""Facts about what a user may use, stated by billing."""

from webhost_contracts.events.base import Event


class TierChanged(Event, frozen=True, kw_only=True, tag="account.tier_changed.v1"):
    """The user's tier changed."""

    tier: str
    previous_tier: str
    source: str


class AccountDisabled(Event, frozen=True, kw_only=True, tag="account.disabled.v1"):
    """The user can neither deploy nor invoke from now on. `reason` is the operator's."""

    source: str
    reason: str | None = None


class AccountEnabled(Event, frozen=True, kw_only=True, tag="account.enabled.v1"):
    """The user may deploy and invoke again."""

    source: str
