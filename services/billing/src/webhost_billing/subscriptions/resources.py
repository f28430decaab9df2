"""Pure: the payment provider's JSON, as webhooks and its API carry it.

Ids are numbers or text, as the provider likes; times are ISO 8601. An API object has no custom
data: only a delivery says whose a subscription is.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec.structs import replace
from webhost_contracts.events.account import SubscriptionStatus
from webhost_kit.http.problems import without_value

from webhost_billing.subscriptions import signatures
from webhost_billing.subscriptions.model import Subscription

INVOICES = "subscription-invoices"
MOST_ID_CHARS = 100

_EVENT_NAME = re.compile(r"subscription_[a-z_]{1,60}")


class Unusable(ValueError):
    """What the provider sent is not what it documents; the message says where."""


class Pause(msgspec.Struct, frozen=True):
    """How a subscription is paused: `void`, without service, or `free`."""

    mode: Literal["void", "free"] | None = None


class SubscriptionAttributes(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes of a subscription that matter here."""

    status: SubscriptionStatus
    variant_id: int | str
    customer_id: int | str
    updated_at: str
    renews_at: str | None = None
    ends_at: str | None = None
    trial_ends_at: str | None = None
    created_at: str | None = None
    user_email: str | None = None
    pause: Pause | None = None
    test_mode: bool = False


class SubscriptionResource(msgspec.Struct, frozen=True):
    """A subscription as the API lists it."""

    id: int | str
    attributes: SubscriptionAttributes

    def read(self, variants: Mapping[str, str]) -> Subscription:
        """Return its state; `variants` says which tier each stands for. Raises Unusable."""
        said = self.attributes
        variant_id = _id(said.variant_id)
        return Subscription(
            id=_id(self.id),
            status=said.status,
            tier=variants.get(variant_id),
            variant_id=variant_id,
            customer_id=_id(said.customer_id),
            updated_at_ms=_at_ms(said.updated_at),
            renews_at_ms=_at_ms_or_none(said.renews_at),
            ends_at_ms=_at_ms_or_none(said.ends_at),
            trial_ends_at_ms=_at_ms_or_none(said.trial_ends_at),
            pause_mode=None if said.pause is None else said.pause.mode,
        )

    @property
    def created_at_ms(self) -> int | None:
        """Return when it was made, where it says so."""
        return _at_ms_or_none(self.attributes.created_at)


def resource_of(content: bytes) -> SubscriptionResource:
    """Return a subscription that the API listed. Raises Unusable."""
    try:
        return msgspec.json.decode(content, type=SubscriptionResource)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unusable(without_value(str(error))) from error


class _Meta(msgspec.Struct, frozen=True):
    event_name: str
    # An empty one is [].
    custom_data: dict[str, Any] | list[Any] | None = None
    test_mode: bool = False


class _Data(msgspec.Struct, frozen=True):
    type: str = ""
    attributes: msgspec.Raw = msgspec.Raw(b"{}")
    id: int | str = ""


class _Delivery(msgspec.Struct, frozen=True):
    meta: _Meta
    data: _Data


class _Invoice(msgspec.Struct, frozen=True):
    subscription_id: int | str
    test_mode: bool = False


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery says of a subscription. `subscription` is its state, None where the delivery
    is about a payment; `user_id` is whom its custom data names with our signature.
    """

    event_name: str
    subscription_id: str
    user_id: str | None
    subscription: Subscription | None
    test_mode: bool


def delivery_of(
    body: bytes, variants: Mapping[str, str], checkout_keys: Mapping[str, bytes]
) -> Delivery | None:
    """Return what a delivery says, None where it is about something else. Raises Unusable."""
    try:
        whole = msgspec.json.decode(body, type=_Delivery)
        name, data = whole.meta.event_name, whole.data
        if not _EVENT_NAME.fullmatch(name):
            return None
        custom = whole.meta.custom_data
        user_id = signatures.user_of(checkout_keys, custom) if isinstance(custom, dict) else None
        if name.startswith("subscription_payment_") or data.type == INVOICES:
            invoice = msgspec.json.decode(data.attributes, type=_Invoice)
            subscription_id, subscription = _id(invoice.subscription_id), None
            is_test = invoice.test_mode
        else:
            attributes = msgspec.json.decode(data.attributes, type=SubscriptionAttributes)
            subscription = SubscriptionResource(data.id, attributes).read(variants)
            subscription_id, is_test = subscription.id, attributes.test_mode
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Unusable(without_value(str(error))) from error
    return Delivery(
        event_name=name,
        subscription_id=subscription_id,
        user_id=user_id,
        subscription=subscription,
        test_mode=is_test or whole.meta.test_mode,
    )


def giving_nothing(delivery: Delivery) -> Delivery:
    """Return a delivery that names no user, and whose subscription stands for no tier."""
    found = delivery.subscription
    found = None if found is None else replace(found, tier=None)
    return replace(delivery, user_id=None, subscription=found)


def _id(value: int | str) -> str:
    text = str(value)
    if not 0 < len(text) <= MOST_ID_CHARS or not text.isprintable():
        raise Unusable("an id is empty, or no id")
    return text


def _at_ms(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
        stated = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        at_ms = int(stated.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise Unusable("a time is not in ISO 8601") from error
    if not 0 <= at_ms < 2**53:
        raise Unusable("a time is out of range")
    return at_ms


def _at_ms_or_none(text: str | None) -> int | None:
    return None if text is None else _at_ms(text)
