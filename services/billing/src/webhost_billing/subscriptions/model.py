"""Pure: what is known of a subscription, which of two states is the newer one, what it gives.

| status                | gives its tier                                                   |
|-----------------------|------------------------------------------------------------------|
| on_trial, active      | yes                                                              |
| past_due              | yes: the provider tries to collect the payment for some weeks    |
| cancelled             | until `ends_at_ms`, by the clock: no delivery is needed for that |
| paused                | only where the pause is `free`: then its service goes on unpaid  |
| unpaid, expired       | no                                                               |

A user's tier is the highest of what an operator set and of what each subscription gives. The order
of the tiers is that of the tiers file, the lowest first.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec
from msgspec.structs import replace
from webhost_contracts.events import SubscriptionChanged
from webhost_contracts.events.account import SubscriptionStatus

FREE_PAUSE = "free"

_FINALITY: dict[SubscriptionStatus, int] = {
    "on_trial": 0,
    "active": 1,
    "past_due": 2,
    "paused": 3,
    "unpaid": 4,
    "cancelled": 5,
    "expired": 6,
}


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """One subscription. Without `status` nothing is known yet but whose it is."""

    id: str
    status: SubscriptionStatus | None = None
    tier: str | None = None
    variant_id: str = ""
    customer_id: str = ""
    updated_at_ms: int = 0
    renews_at_ms: int | None = None
    ends_at_ms: int | None = None
    trial_ends_at_ms: int | None = None
    pause_mode: str | None = None


Subscriptions = Mapping[str, Subscription]
"""A user's subscriptions, by id."""


def gives(subscription: Subscription, now_ms: int) -> str | None:
    """Return the tier that a subscription gives now, None for none."""
    match subscription.status:
        case "on_trial" | "active" | "past_due":
            return subscription.tier
        case "cancelled":
            end = subscription.ends_at_ms
            return subscription.tier if end is None or now_ms < end else None
        case "paused":
            return subscription.tier if subscription.pause_mode == FREE_PAUSE else None
        case _:
            return None


def due_at_ms(subscription: Subscription) -> int | None:
    """Return when it ends to give its tier by itself, None where only a delivery ends that."""
    is_ending = subscription.status == "cancelled" and subscription.tier is not None
    return subscription.ends_at_ms if is_ending else None


def tier_of(
    granted: str, subscriptions: Iterable[Subscription], tiers: Collection[str], now_ms: int
) -> str:
    """Return the tier of a user to whom an operator granted this one."""
    given = (gives(subscription, now_ms) for subscription in subscriptions)
    return highest((granted, *(tier for tier in given if tier is not None)), tiers)


def highest(names: Iterable[str], tiers: Collection[str]) -> str:
    """Return the highest of these tiers; one that there is no more is the lowest."""
    rank = {name: number for number, name in enumerate(tiers)}
    return max(names, key=lambda name: rank.get(name, -1))


def leading(
    subscriptions: Iterable[Subscription], tiers: Collection[str], now_ms: int
) -> Subscription | None:
    """Return the one that gives most, else the newest; None where none is known."""
    rank = {name: number for number, name in enumerate(tiers)}
    known = [each for each in subscriptions if each.status is not None]
    return max(
        known,
        key=lambda each: (rank.get(gives(each, now_ms) or "", -1), each.updated_at_ms, each.id),
        default=None,
    )


def replaces(found: Subscription, known: Subscription, *, read_back: bool) -> bool:
    """Say whether what was found is the newer state; equal ones change nothing.

    The provider's times are of whole seconds. Of two states of one second a delivery's is the newer
    one that is more final, so that any order of deliveries ends alike; what was `read_back` from
    the provider is the state now.
    """
    if found == known:
        return False
    if read_back:
        return found.updated_at_ms >= known.updated_at_ms
    return _order(found) > _order(known)


def _order(state: Subscription) -> tuple[int, int, str]:
    finality = -1 if state.status is None else _FINALITY[state.status]
    return state.updated_at_ms, finality, repr(state)


def changed(found: Subscription, source: str) -> SubscriptionChanged:
    """Return the fact that a subscription is like this now. Raises ValueError without a status."""
    if found.status is None:
        raise ValueError("nothing is known of the subscription")
    return SubscriptionChanged(
        subscription_id=found.id,
        status=found.status,
        variant_id=found.variant_id,
        customer_id=found.customer_id,
        updated_at_ms=found.updated_at_ms,
        source=source,
        tier=found.tier,
        renews_at_ms=found.renews_at_ms,
        ends_at_ms=found.ends_at_ms,
        trial_ends_at_ms=found.trial_ends_at_ms,
        pause_mode=found.pause_mode,
    )


def noted(subscriptions: Subscriptions, subscription_id: str) -> Subscriptions:
    """Return them with this one, of which it is known at least whose it is."""
    return {subscription_id: Subscription(id=subscription_id), **subscriptions}


def with_change(subscriptions: Subscriptions, fact: SubscriptionChanged) -> Subscriptions:
    """Return them with one as the fact says."""
    known = subscriptions.get(fact.subscription_id, Subscription(id=fact.subscription_id))
    after = replace(
        known,
        status=fact.status,
        tier=fact.tier,
        variant_id=fact.variant_id,
        customer_id=fact.customer_id,
        updated_at_ms=fact.updated_at_ms,
        renews_at_ms=fact.renews_at_ms,
        ends_at_ms=fact.ends_at_ms,
        trial_ends_at_ms=fact.trial_ends_at_ms,
        pause_mode=fact.pause_mode,
    )
    return {**subscriptions, after.id: after}
