"""Runs the gateway: `python -m webhost_gateway`."""

from webhost_kit.process.start import start

from webhost_gateway.app import compose
from webhost_gateway.settings import Settings

start("gateway", Settings, compose)
