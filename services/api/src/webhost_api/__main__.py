"""Runs the api: `python -m webhost_api`."""

from webhost_kit.process.start import start

from webhost_api.app import compose
from webhost_api.settings import Settings

start("api", Settings, compose)
