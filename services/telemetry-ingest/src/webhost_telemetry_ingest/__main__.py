"""Runs telemetry-ingest: `python -m webhost_telemetry_ingest`."""

from webhost_kit.process.start import start

from webhost_telemetry_ingest.app import compose
from webhost_telemetry_ingest.settings import Settings

start("telemetry-ingest", Settings, compose)
