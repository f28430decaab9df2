"""Runs the deployer: `python -m webhost_deployer`."""

from webhost_kit.process.start import start

from webhost_deployer.app import compose
from webhost_deployer.settings import Settings

start("deployer", Settings, compose)
