"""billing's environment."""

from pathlib import Path

from pydantic import model_validator
from webhost_contracts.entitlements import load_tiers
from webhost_kit.process.settings import LongestCall

from webhost_billing.charging import Rules, load_prices


class Settings(LongestCall):
    """Variables are the fields' names in upper case. Files default to the product's own."""

    webhost_tiers_file: Path | None = None
    """A TOML file of what each tier allows; if not set, the product's own tiers apply."""
    webhost_prices_file: Path | None = None
    """The price book, a TOML file; if not set, the product's own prices apply."""

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        load_tiers(self.webhost_tiers_file)
        load_prices(self.webhost_prices_file)
        return self

    def rules(self) -> Rules:
        """Return the rules by which invocations are charged."""
        return Rules(load_prices(self.webhost_prices_file), int(self.longest_call_s * 1000))
