"""Runs billing: `python -m webhost_billing`."""

from webhost_kit.process.start import start

from webhost_billing.app import compose
from webhost_billing.settings import Settings

start("billing", Settings, compose)
