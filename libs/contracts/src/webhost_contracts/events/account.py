"""Facts about what a user may use, stated by billing."""

from typing import Literal

from webhost_contracts.events.base import Event

SubscriptionStatus = Literal[
    "on_trial", "active", "paused", "past_due", "unpaid", "cancelled", "expired"
]


class TierChanged(Event, frozen=True, kw_only=True, tag="account.tier_changed.v1"):
    """The user's tier changed, or what an operator had set it to.

    `source` is `operator:<who>`, or `subscription` where what the user's subscriptions give has
    changed. `granted` is what an operator set where that is not `tier`: the tier is the higher one
    of that and of what subscriptions give.
    """

    tier: str
    previous_tier: str
    source: str
    granted: str | None = None


class AccountDisabled(Event, frozen=True, kw_only=True, tag="account.disabled.v1"):
    """The user can neither deploy nor invoke from now on. `reason` is the operator's."""

    source: str
    reason: str | None = None


class AccountEnabled(Event, frozen=True, kw_only=True, tag="account.enabled.v1"):
    """The user may deploy and invoke again."""

    source: str


class CheckoutStarted(Event, frozen=True, kw_only=True, tag="account.checkout_started.v1"):
    """The user was given the address of a page at the payment provider on which to buy a tier."""

    tier: str
    variant_id: str
    checkout_id: str


class WebhookProcessed(Event, frozen=True, kw_only=True, tag="account.webhook_processed.v1"):
    """A delivery of the payment provider's about one of the user's subscriptions was processed.

    A subscription is the user's of whom the first of its deliveries says so. `body_hash` is the
    SHA-256 of the delivery in hex: the same one again changes nothing.
    """

    event_name: str
    subscription_id: str
    body_hash: str


class SubscriptionChanged(Event, frozen=True, kw_only=True, tag="account.subscription_changed.v1"):
    """One of the user's subscriptions at the payment provider changed.

    `tier` is what its variant stands for, None for one that stands for no tier here; whether the
    subscription gives it follows from `status` (a cancelled one does until `ends_at_ms`) and, of a
    paused one, from `pause_mode`. `updated_at_ms` is the provider's time of this state: an older
    one never follows. `source` is `webhook`, `reconcile` or `operator:<who>`.
    """

    subscription_id: str
    status: SubscriptionStatus
    variant_id: str
    customer_id: str
    updated_at_ms: int
    source: str
    tier: str | None = None
    renews_at_ms: int | None = None
    ends_at_ms: int | None = None
    trial_ends_at_ms: int | None = None
    pause_mode: str | None = None
