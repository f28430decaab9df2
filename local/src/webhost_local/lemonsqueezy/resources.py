"""What the store holds as LemonSqueezy's JSON: API objects, and the bodies of webhooks.

An API object has no custom data; a webhook carries it in `meta`. Ids of objects are text, those in
attributes numbers.
"""

from datetime import UTC, datetime
from typing import Any

from webhost_local.lemonsqueezy.model import BY_ID, STORE_ID, Checkout, Subscription

Json = dict[str, Any]

CARD = {"card_brand": "visa", "card_last_four": "4242", "payment_processor": "stripe"}


def time_of(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")


def checkout(made: Checkout, base_url: str) -> Json:
    return {
        "type": "checkouts",
        "id": made.id,
        "attributes": {
            "store_id": STORE_ID,
            "variant_id": made.variant_id,
            "custom_price": None,
            "product_options": {"redirect_url": made.redirect_url or ""},
            "checkout_options": {},
            "checkout_data": {"email": made.email, "name": made.name, "custom": made.custom},
            "preview": False,
            "expires_at": time_of(made.expires_at),
            "created_at": time_of(made.created_at),
            "updated_at": time_of(made.created_at),
            "test_mode": True,
            "url": f"{base_url}/checkout/custom/{made.id}",
        },
        "links": {"self": f"{base_url}/v1/checkouts/{made.id}"},
    }


def subscription(one: Subscription, base_url: str) -> Json:
    name = BY_ID[one.variant_id].name
    paused = {"mode": one.pause_mode, "resumes_at": None}
    return {
        "type": "subscriptions",
        "id": str(one.id),
        "attributes": {
            "store_id": STORE_ID,
            "customer_id": one.customer_id,
            "order_id": one.order_id,
            "order_item_id": one.order_id,
            "product_id": one.variant_id,
            "variant_id": one.variant_id,
            "product_name": name,
            "variant_name": "Monthly",
            "user_name": one.name,
            "user_email": one.email,
            "status": one.status,
            "status_formatted": one.status.replace("_", " ").capitalize(),
            **CARD,
            "pause": paused if one.pause_mode else None,
            "cancelled": one.status == "cancelled",
            "trial_ends_at": time_of(one.trial_ends_at),
            "billing_anchor": datetime.fromtimestamp(one.created_at, UTC).day,
            "urls": {"customer_portal": f"{base_url}/billing/{one.id}"},
            "renews_at": time_of(one.renews_at),
            "ends_at": time_of(one.ends_at),
            "created_at": time_of(one.created_at),
            "updated_at": time_of(one.updated_at),
            "test_mode": True,
        },
        "links": {"self": f"{base_url}/v1/subscriptions/{one.id}"},
    }


def invoice(one: Subscription, number: int, event_name: str) -> Json:
    failed = event_name == "subscription_payment_failed"
    cents = BY_ID[one.variant_id].cents
    return {
        "type": "subscription-invoices",
        "id": str(number),
        "attributes": {
            "store_id": STORE_ID,
            "subscription_id": one.id,
            "customer_id": one.customer_id,
            "user_name": one.name,
            "user_email": one.email,
            "billing_reason": "initial" if one.created_at == one.updated_at else "renewal",
            **CARD,
            "currency": "USD",
            "status": "pending" if failed else "paid",
            "subtotal": cents,
            "total": cents,
            "refunded": False,
            "created_at": time_of(one.updated_at),
            "updated_at": time_of(one.updated_at),
            "test_mode": True,
        },
    }


def order(one: Subscription) -> Json:
    cents = BY_ID[one.variant_id].cents
    return {
        "type": "orders",
        "id": str(one.order_id),
        "attributes": {
            "store_id": STORE_ID,
            "customer_id": one.customer_id,
            "user_name": one.name,
            "user_email": one.email,
            "currency": "USD",
            "total": cents,
            "status": "paid",
            "created_at": time_of(one.created_at),
            "updated_at": time_of(one.created_at),
            "test_mode": True,
        },
    }


def delivery(event_name: str, one: Subscription, number: int, base_url: str) -> Json:
    """The body of a webhook; `number` is what an invoice in it is called."""
    if event_name.startswith("order_"):
        data = order(one)
    elif event_name.startswith("subscription_payment_"):
        data = invoice(one, number, event_name)
    else:
        data = subscription(one, base_url)
    # As over there, no custom data is an empty list.
    meta: Json = {"event_name": event_name, "custom_data": one.custom or [], "test_mode": True}
    return {"meta": meta, "data": data}
