"""How the payment provider is configured: all of it, or nothing."""

from pydantic import SecretStr, model_validator
from webhost_contracts.entitlements import DEFAULT_TIER
from webhost_kit.keys import parse_symmetric_keys
from webhost_kit.process.settings import CommaList, TierSettings

from webhost_billing.subscriptions.lemonsqueezy import LemonSqueezy
from webhost_billing.subscriptions.provider import Provider

MIN_SECRET_CHARS = 16


class Payments(TierSettings):
    """LemonSqueezy. Without LEMONSQUEEZY_API_KEY nothing is sold."""

    lemonsqueezy_api_key: SecretStr | None = None
    """The key for LemonSqueezy's API; if not set, nothing is sold, and the rest here is not set."""
    lemonsqueezy_store_id: str | None = None
    """The id of the store at LemonSqueezy."""
    lemonsqueezy_variants: CommaList = ()
    """What the variants of its products stand for, `<variant id>:<tier>,…`. A tier may have several
    (by the month, by the year); a checkout sells the first."""
    lemonsqueezy_webhook_secrets: SecretStr | None = None
    """The signing secrets of its webhook, with commas between them. All are good, so that one can
    be replaced. At least 16 characters each."""
    lemonsqueezy_checkout_keys: SecretStr | None = None
    """Keys with which the user of a checkout is signed, `<key id>:<base64url of 32 bytes>,…`. The
    first signs; one that it replaces is needed for two days."""
    lemonsqueezy_redirect_url: str | None = None
    """Where LemonSqueezy sends whoever has paid, for instance to the dashboard."""
    lemonsqueezy_test_mode: bool = False
    """Sell in LemonSqueezy's test mode: what is bought in it costs nothing, and gives its tier."""
    lemonsqueezy_api_base_url: str = "https://api.lemonsqueezy.com"
    """The address of LemonSqueezy's API."""

    @model_validator(mode="after")
    def _payments_are_configured_whole(self) -> "Payments":
        needed = {
            "LEMONSQUEEZY_API_KEY": self.lemonsqueezy_api_key,
            "LEMONSQUEEZY_STORE_ID": self.lemonsqueezy_store_id,
            "LEMONSQUEEZY_VARIANTS": self.lemonsqueezy_variants,
            "LEMONSQUEEZY_WEBHOOK_SECRETS": self.lemonsqueezy_webhook_secrets,
            "LEMONSQUEEZY_CHECKOUT_KEYS": self.lemonsqueezy_checkout_keys,
        }
        missing = [name for name, value in needed.items() if not value]
        if missing and len(missing) < len(needed):
            raise ValueError(f"to sell tiers, set {', '.join(missing)} too")
        self.require_https("LEMONSQUEEZY_API_BASE_URL", self.lemonsqueezy_api_base_url)
        if self.lemonsqueezy_redirect_url is not None:
            self.require_https("LEMONSQUEEZY_REDIRECT_URL", self.lemonsqueezy_redirect_url)
        if not missing:
            _ = self._variants(), self._webhook_secrets(), self._checkout_keys()
        return self

    def provider(self) -> Provider | None:
        """Return the payment provider, None where there is none."""
        if self.lemonsqueezy_api_key is None or self.lemonsqueezy_store_id is None:
            return None
        return Provider(
            client=LemonSqueezy(
                self.lemonsqueezy_api_base_url,
                self.lemonsqueezy_api_key.get_secret_value(),
                self.lemonsqueezy_store_id,
            ),
            variants=self._variants(),
            webhook_secrets=self._webhook_secrets(),
            checkout_keys=self._checkout_keys(),
            test_mode=self.lemonsqueezy_test_mode,
            redirect_url=self.lemonsqueezy_redirect_url,
        )

    def _variants(self) -> dict[str, str]:
        tiers = self.tiers()
        found: dict[str, str] = {}
        for entry in self.lemonsqueezy_variants:
            variant_id, _, tier = (part.strip() for part in entry.partition(":"))
            if not variant_id or not tier or variant_id in found:
                raise ValueError("LEMONSQUEEZY_VARIANTS must be <variant id>:<tier>, …, each once")
            if tier not in tiers or tier == DEFAULT_TIER:
                raise ValueError(f"LEMONSQUEEZY_VARIANTS: '{tier}' is no tier that can be sold")
            found[variant_id] = tier
        return found

    def _webhook_secrets(self) -> tuple[bytes, ...]:
        text = _text(self.lemonsqueezy_webhook_secrets)
        secrets = tuple(part.strip().encode() for part in text.split(",") if part.strip())
        if not secrets or any(len(secret) < MIN_SECRET_CHARS for secret in secrets):
            raise ValueError(
                f"LEMONSQUEEZY_WEBHOOK_SECRETS: each needs at least {MIN_SECRET_CHARS} characters"
            )
        return secrets

    def _checkout_keys(self) -> dict[str, bytes]:
        text = _text(self.lemonsqueezy_checkout_keys)
        return parse_symmetric_keys(text, "LEMONSQUEEZY_CHECKOUT_KEYS")


def _text(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()
