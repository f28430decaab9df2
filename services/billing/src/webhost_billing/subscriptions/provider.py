"""The payment provider as it is configured: what is sold as which tier, and with what is signed."""

from dataclasses import dataclass, field

from webhost_billing.subscriptions.lemonsqueezy import LemonSqueezy


@dataclass(frozen=True)
class Provider:
    """One store. `variants` are the tiers by what is sold; a tier is sold as its first one.

    `webhook_secrets` are all good; of `checkout_keys`, by id, the first signs. Without `test_mode`
    what is bought in the provider's test mode gives nothing: it costs nothing.
    """

    client: LemonSqueezy
    variants: dict[str, str]
    webhook_secrets: tuple[bytes, ...] = field(repr=False)
    checkout_keys: dict[str, bytes] = field(repr=False)
    test_mode: bool = False
    redirect_url: str | None = None
