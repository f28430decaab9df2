"""Pure: what billing states about an account when it learns of its subscriptions."""

import hashlib
from collections.abc import Collection
from dataclasses import replace

from webhost_contracts.events import Event, WebhookProcessed

from webhost_billing import decisions
from webhost_billing.decisions import Account, Refused
from webhost_billing.subscriptions import model
from webhost_billing.subscriptions.model import Subscription
from webhost_billing.subscriptions.resources import Delivery

WEBHOOK = "webhook"
RECONCILE = "reconcile"


def body_hash(body: bytes) -> str:
    """Return by what a delivery is recognised when it comes again: it carries no id."""
    return hashlib.sha256(body).hexdigest()


def process(
    account: Account, delivery: Delivery, digest: str, tiers: Collection[str], now_ms: int
) -> list[Event]:
    """Return the facts that follow from a delivery about a subscription of this account."""
    processed = WebhookProcessed(
        event_name=delivery.event_name,
        subscription_id=delivery.subscription_id,
        body_hash=digest,
    )
    if delivery.subscription is None:
        return [processed]
    return [processed, *observe(account, delivery.subscription, WEBHOOK, tiers, now_ms)]


def observe(
    account: Account,
    found: Subscription,
    source: str,
    tiers: Collection[str],
    now_ms: int,
    *,
    read_back: bool = False,
) -> list[Event]:
    """Return the facts that follow from a state of a subscription of this account.

    One that is older than the known one changes nothing; neither does the same again.
    """
    known = account.subscriptions.get(found.id, Subscription(id=found.id))
    facts: list[Event] = []
    after = account
    if model.replaces(found, known, read_back=read_back):
        change = model.changed(found, source)
        facts.append(change)
        after = replace(account, subscriptions=model.with_change(account.subscriptions, change))
    return [*facts, *decisions.settle(after, tiers, now_ms)]


def assign(
    account: Account, found: Subscription, operator: str, tiers: Collection[str], now_ms: int
) -> list[Event]:
    """Return the facts by which an operator makes a subscription this account's.

    Raises Refused for what is no user id.
    """
    decisions.require_user_id(account)
    source = f"{decisions.OPERATOR}{operator}"[:200]
    return observe(account, found, source, tiers, now_ms, read_back=True)


def buyable(variants: dict[str, str], tier: str) -> str:
    """Return the variant that is sold as this tier: the first one. Raises Refused."""
    for variant_id, sold in variants.items():
        if sold == tier:
            return variant_id
    offered = ", ".join(dict.fromkeys(variants.values())) or "none"
    raise Refused(f"There is nothing to buy for this tier. For sale: {offered}.")
