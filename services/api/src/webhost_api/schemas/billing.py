"""Tiers, subscriptions and checkouts."""

from typing import Annotated, Literal

from pydantic import Field
from webhost_contracts.billing_rpc import SubscriptionView
from webhost_contracts.events.account import SubscriptionStatus

from webhost_api.schemas.base import OptionalInt, OptionalText, Schema
from webhost_api.schemas.me import EntitlementsSchema


class TierSchema(Schema):
    """A tier, and what it allows."""

    name: Annotated[str, Field(examples=["pro"])]
    entitlements: EntitlementsSchema


class TiersResponse(Schema):
    """All tiers, the lowest first."""

    tiers: list[TierSchema]


class SubscriptionSchema(Schema):
    """A subscription. `tier` is absent where what was bought is no tier any more; `active` says
    whether it gives its tier now. A cancelled one does until `endsAtMs`.
    """

    id: Annotated[str, Field(examples=["9001"])]
    status: SubscriptionStatus
    tier: OptionalText = None
    active: bool
    renews_at_ms: OptionalInt = None
    ends_at_ms: OptionalInt = None
    trial_ends_at_ms: OptionalInt = None
    updated_at_ms: int


class SubscriptionResponse(Schema):
    """The caller's subscription: of several the one that gives most, else the newest."""

    subscription: SubscriptionSchema | None


class CheckoutResponse(Schema):
    """Where the tier can be bought."""

    checkout_url: str


class WebhookResponse(Schema):
    """What became of a delivery: `processed`, `duplicate`, or `ignored` where it does not concern
    this installation.
    """

    outcome: Literal["processed", "duplicate", "ignored"]


def subscription_schema(view: SubscriptionView) -> SubscriptionSchema:
    """Return a subscription, as JSON."""
    return SubscriptionSchema(
        id=view.id,
        status=view.status,
        tier=view.tier,
        active=view.active,
        renews_at_ms=view.renews_at_ms,
        ends_at_ms=view.ends_at_ms,
        trial_ends_at_ms=view.trial_ends_at_ms,
        updated_at_ms=view.updated_at_ms,
    )
