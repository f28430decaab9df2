"""billing's environment."""

from pathlib import Path

from pydantic import model_validator
from webhost_kit.process.settings import LongestCall, Tiered

from webhost_billing.charging import Rules, load_prices


class Settings(LongestCall, Tiered):
    """Variables are the fields' names in upper case. Files default to the product's own."""

    webhost_prices_file: Path | None = None
    """The price book, a TOML file; if not set, the product's own prices apply."""

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        load_prices(self.webhost_prices_file)
        return self

    def rules(self) -> Rules:
        """Return the rules by which invocations are charged."""
        return Rules(load_prices(self.webhost_prices_file), int(self.longest_call_s * 1000))
