"""Pure: what the store sells and has sold, and what each action makes of a subscription.

Times are Unix seconds, whole ones as at LemonSqueezy. `updated_at` grows with every change, so that
two changes within one second have an order.
"""

from collections.abc import Callable

import msgspec

STORE_ID = 1
MONTH_S = 30 * 24 * 3600
CREATED = ("order_created", "subscription_created", "subscription_payment_success")
UPDATED = "subscription_updated"


class Variant(msgspec.Struct, frozen=True):
    """Something that is sold, by the month."""

    id: int
    name: str
    cents: int


VARIANTS = {
    "starter": Variant(1001, "Starter", 900),
    "pro": Variant(1002, "Pro", 4900),
    "enterprise": Variant(1003, "Enterprise", 49900),
}
"""By the tier that each stands for in the local stack."""

BY_ID = {variant.id: variant for variant in VARIANTS.values()}


class Checkout(msgspec.Struct, kw_only=True):
    """A page on which one variant can be bought, any number of times until it expires."""

    id: str
    variant_id: int
    custom: dict[str, str]
    email: str = ""
    name: str = ""
    redirect_url: str | None = None
    expires_at: int | None = None
    created_at: int


class Subscription(msgspec.Struct, kw_only=True):
    """What somebody bought. `custom` is the checkout's: webhooks carry it, the API does not."""

    id: int
    customer_id: int
    order_id: int
    variant_id: int
    custom: dict[str, str]
    email: str
    name: str
    status: str = "active"
    pause_mode: str | None = None
    renews_at: int | None = None
    ends_at: int | None = None
    trial_ends_at: int | None = None
    created_at: int
    updated_at: int


class Refused(Exception):
    """The action is not possible in this state; the message is for the page."""


Change = Callable[[Subscription, int], tuple[str, ...]]
"""Changes a subscription at this time; returns the names of the events beside the catch-all."""


def _require(subscription: Subscription, *statuses: str) -> None:
    if subscription.status not in statuses:
        raise Refused(f"A subscription that is {subscription.status} cannot do this.")


def cancel(subscription: Subscription, _now: int) -> tuple[str, ...]:
    """End it with what was paid for."""
    _require(subscription, "active", "past_due", "on_trial", "paused", "unpaid")
    subscription.status, subscription.pause_mode = "cancelled", None
    subscription.ends_at = subscription.renews_at
    return ("subscription_cancelled",)


def resume(subscription: Subscription, now: int) -> tuple[str, ...]:
    """Take a cancellation back, as long as it has not ended."""
    _require(subscription, "cancelled")
    if subscription.ends_at is not None and subscription.ends_at <= now:
        raise Refused("It has ended.")
    subscription.status, subscription.ends_at = "active", None
    return ("subscription_resumed",)


def expire(subscription: Subscription, now: int) -> tuple[str, ...]:
    """End it now."""
    if subscription.status == "expired":
        raise Refused("It has ended.")
    subscription.status, subscription.pause_mode = "expired", None
    subscription.ends_at = min(subscription.ends_at or now, now)
    return ("subscription_expired",)


def fail_payment(subscription: Subscription, _now: int) -> tuple[str, ...]:
    """Let a renewal fail: it is tried again for two weeks."""
    _require(subscription, "active", "past_due")
    subscription.status = "past_due"
    return ("subscription_payment_failed",)


def give_up(subscription: Subscription, _now: int) -> tuple[str, ...]:
    """Let the last try to collect a payment fail."""
    _require(subscription, "past_due")
    subscription.status = "unpaid"
    return ("subscription_payment_failed",)


def recover(subscription: Subscription, now: int) -> tuple[str, ...]:
    """Let a payment that failed succeed after all."""
    _require(subscription, "past_due", "unpaid")
    subscription.status, subscription.renews_at = "active", now + MONTH_S
    return ("subscription_payment_success", "subscription_payment_recovered")


def renew(subscription: Subscription, now: int) -> tuple[str, ...]:
    """Let the next payment succeed."""
    _require(subscription, "active", "on_trial")
    subscription.status = "active"
    subscription.renews_at = max(subscription.renews_at or now, now) + MONTH_S
    return ("subscription_payment_success",)


def pause(subscription: Subscription, _now: int) -> tuple[str, ...]:
    """Collect no payments, and provide nothing."""
    _require(subscription, "active", "past_due")
    subscription.status, subscription.pause_mode = "paused", "void"
    return ("subscription_paused",)


def pause_free(subscription: Subscription, _now: int) -> tuple[str, ...]:
    """Collect no payments, and provide the service all the same."""
    _require(subscription, "active", "past_due")
    subscription.status, subscription.pause_mode = "paused", "free"
    return ("subscription_paused",)


def unpause(subscription: Subscription, _now: int) -> tuple[str, ...]:
    """Collect payments again."""
    _require(subscription, "paused")
    subscription.status, subscription.pause_mode = "active", None
    return ("subscription_unpaused",)


def to_variant(variant_id: int) -> Change:
    """Return the change to another variant."""

    def change(subscription: Subscription, _now: int) -> tuple[str, ...]:
        _require(subscription, "active", "on_trial", "past_due")
        if variant_id not in BY_ID or variant_id == subscription.variant_id:
            raise Refused("There is no such variant to change to.")
        subscription.variant_id = variant_id
        return ("subscription_plan_changed",)

    return change


ACTIONS: dict[str, tuple[str, Change]] = {
    "cancel": ("Cancel", cancel),
    "resume": ("Resume", resume),
    "expire": ("End now", expire),
    "renew": ("Renew", renew),
    "fail-payment": ("Let a payment fail", fail_payment),
    "give-up": ("Let the last try fail", give_up),
    "recover": ("Let the payment succeed", recover),
    "pause": ("Pause", pause),
    "pause-free": ("Pause, with service", pause_free),
    "unpause": ("Unpause", unpause),
    **{f"to-{tier}": (f"Change to {it.name}", to_variant(it.id)) for tier, it in VARIANTS.items()},
}
"""What the page of a subscription offers: a button's text, and what it does."""


def possible(subscription: Subscription, now: int) -> dict[str, str]:
    """Return the actions that are possible now, with their texts."""
    found: dict[str, str] = {}
    for name, (text, change) in ACTIONS.items():
        try:
            change(msgspec.structs.replace(subscription), now)
        except Refused:
            continue
        found[name] = text
    return found
