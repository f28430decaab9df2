"""Without the payment provider nothing is sold, and that is what is said."""

import json
from typing import Any, cast

import pytest
from webhost_billing.subscriptions import signatures
from webhost_billing.subscriptions.handlers import SubscriptionHandlers
from webhost_billing.subscriptions.provider import Provider
from webhost_billing.subscriptions.reconciliation import Reconciliation
from webhost_contracts import ids
from webhost_contracts.billing_rpc import (
    AssignSubscriptionRequest,
    CheckoutRequest,
    ReconcileSubscriptionsRequest,
    WebhookRequest,
)

from tests.unit.billing.test_subscriptions import body

USER = ids.user_id("test", "a")
NO_DATABASE = cast(Any, None)


@pytest.mark.accept("8.6.unconfigured")
async def test_without_the_provider_nothing_is_sold_and_nothing_is_taken_over() -> None:
    handlers = SubscriptionHandlers(NO_DATABASE, ("free", "pro"), None)
    wanted = CheckoutRequest(user_id=USER, tier="pro", actor=f"user:{USER}")
    checkout = await handlers.checkout(wanted)
    assert (checkout.url, checkout.refused) == (None, None)
    assert "not configured" in str(checkout.unavailable)
    assert checkout.unconfigured
    signature = signatures.delivery_signature(b"", b"{}")
    delivered = await handlers.webhook(WebhookRequest(body=b"{}", signature=signature))
    assert delivered.outcome == "unconfigured"
    reconciliation = Reconciliation(NO_DATABASE, ("free", "pro"), None)
    read = await reconciliation.reconcile(ReconcileSubscriptionsRequest(operator="olivia"))
    assigned = await reconciliation.assign(
        AssignSubscriptionRequest(subscription_id="1", user_id=USER, operator="olivia")
    )
    for refused in (read.refused, assigned.refused):
        assert "not configured" in str(refused)


class OfTheTestMode:
    """The provider's API, which knows one subscription."""

    async def subscription(self, subscription_id: str) -> bytes:
        told = json.loads(body(test_mode=True, data_id=subscription_id))["data"]
        return json.dumps(told).encode()


@pytest.mark.accept("8.6.signed")
async def test_what_was_bought_in_the_test_mode_is_assigned_to_nobody_outside_of_it() -> None:
    provider = Provider(
        client=cast(Any, OfTheTestMode()),
        variants={"2": "pro"},
        webhook_secrets=(b"the webhook's secret",),
        checkout_keys={"k1": b"1" * 32},
    )
    reconciliation = Reconciliation(NO_DATABASE, ("free", "pro"), provider)
    request = AssignSubscriptionRequest(subscription_id="1", user_id=USER, operator="olivia")
    assert (await reconciliation.assign(request)).refused == "it is of the provider's test mode"
