"""billing's environment."""

from pathlib import Path

from pydantic import Field, field_validator
from webhost_kit.process.settings import CallTimeoutSettings, StreamSettings, TierSettings

from webhost_billing.charging import Rules, load_prices
from webhost_billing.subscriptions.settings import Payments


class Settings(CallTimeoutSettings, Payments, StreamSettings, TierSettings):
    """Variables are the fields' names in upper case. Files default to the product's own."""

    webhost_prices_file: Path | None = None
    """The price book, a TOML file; if not set, the product's own prices apply."""

    min_compute_percent: int = Field(default=25, ge=0, le=100)
    """The least compute that is charged for a call, in percent of the gateway's wall time, however
    little its Worker reports: on Cloudflare a Worker's clock stands still while code computes."""

    @field_validator("webhost_prices_file")
    @classmethod
    def _prices_are_usable(cls, path: Path | None) -> Path | None:
        load_prices(path)
        return path

    def rules(self) -> Rules:
        """Return the rules by which invocations are charged."""
        return Rules(
            load_prices(self.webhost_prices_file),
            int(self.longest_call_s * 1000),
            self.min_compute_percent,
        )
