"""Billing, but for how long after its end a period is sealed: TEST_SEAL_DELAY_MS."""

import os
from dataclasses import replace

from webhost_billing.app import compose
from webhost_billing.charging import Rules
from webhost_billing.settings import Settings
from webhost_kit.process.start import start


class DelayedSettings(Settings):
    """As billing's, with the delay of the test."""

    def rules(self) -> Rules:
        """Return the rules, with another delay."""
        return replace(super().rules(), seal_delay_ms=int(os.environ["TEST_SEAL_DELAY_MS"]))


if __name__ == "__main__":
    start("billing", DelayedSettings, compose)
