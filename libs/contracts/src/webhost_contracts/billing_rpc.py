"""Requests to billing about what users pay for, and their replies (see `webhost_contracts.rpc`)."""

from typing import Literal

from webhost_contracts.events.account import SubscriptionStatus
from webhost_contracts.wire import Wire

CHECKOUT_TIMEOUT_S = 12.0
"""A checkout is made at the payment provider, which may take its time."""


class CheckoutRequest(Wire, frozen=True, kw_only=True):
    """A user wants to buy a tier. `email` and `name` are filled in on the provider's page."""

    user_id: str
    tier: str
    actor: str
    email: str | None = None
    name: str | None = None
    request_id: str | None = None
    traceparent: str | None = None


class CheckoutReply(Wire, frozen=True, kw_only=True):
    """The address of the page on which to buy it, or why there is none.

    `refused` says what is wrong with the tier, `unavailable` why nothing can be bought now;
    `unconfigured` where that stays so until an operator sets it up.
    """

    url: str | None = None
    refused: str | None = None
    unavailable: str | None = None
    unconfigured: bool = False


class WebhookRequest(Wire, frozen=True, kw_only=True):
    """A delivery of the payment provider's: its raw body, and the signature that came with it."""

    body: bytes
    signature: str
    request_id: str | None = None
    traceparent: str | None = None


WebhookOutcome = Literal[
    "processed", "duplicate", "ignored", "unauthenticated", "invalid", "unconfigured"
]


class WebhookReply(Wire, frozen=True, kw_only=True):
    """What became of a delivery, and why where it is not `processed`.

    `ignored` is what does not concern this installation, such as a sale of something else.
    """

    outcome: WebhookOutcome
    reason: str | None = None


class SubscriptionRequest(Wire, frozen=True, kw_only=True):
    """Which subscription a user has."""

    user_id: str


class SubscriptionView(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One subscription. `tier` is what its variant stands for, and `active` says whether the
    subscription gives it now.
    """

    id: str
    status: SubscriptionStatus
    tier: str | None
    active: bool
    updated_at_ms: int
    renews_at_ms: int | None = None
    ends_at_ms: int | None = None
    trial_ends_at_ms: int | None = None


class SubscriptionReply(Wire, frozen=True, kw_only=True):
    """The subscription that gives the user most, else the newest; None where there was none."""

    subscription: SubscriptionView | None = None


class ReconcileSubscriptionsRequest(Wire, frozen=True, kw_only=True):
    """An operator asks billing to compare subscriptions with the payment provider's, and to take
    over what it missed. A dry run changes nothing.
    """

    operator: str
    dry_run: bool = False


class ChangedSubscription(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A subscription that is not what was known here; with it, its user's tier."""

    id: str
    user_id: str
    was: SubscriptionStatus | None
    status: SubscriptionStatus
    previous_tier: str
    tier: str


class UnassignedSubscription(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A subscription of which no delivery has said whose it is.

    `users` are those who have other subscriptions of the same customer.
    """

    id: str
    status: SubscriptionStatus
    tier: str | None
    customer_id: str
    email: str | None
    created_at_ms: int | None
    users: tuple[str, ...] = ()


class ReconcileSubscriptionsReply(Wire, frozen=True, kw_only=True):
    """How many the provider has, and what differs. `changed` was taken over where `applied`.

    `unknown_variants` stand for no tier in the configuration; `missing` are known here, and not to
    the provider. Each list has at most 200, and `left_out` more are not listed. Why some are
    `unreadable` is in billing's log.
    """

    read: int = 0
    changed: tuple[ChangedSubscription, ...] = ()
    unassigned: tuple[UnassignedSubscription, ...] = ()
    unknown_variants: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unreadable: int = 0
    left_out: int = 0
    applied: bool = False
    refused: str | None = None


class AssignSubscriptionRequest(Wire, frozen=True, kw_only=True):
    """An operator says whose a subscription is that no delivery has said so of."""

    subscription_id: str
    user_id: str
    operator: str


class AssignSubscriptionReply(Wire, frozen=True, kw_only=True):
    """The user's tier after it, or why it was refused."""

    tier: str | None = None
    refused: str | None = None
