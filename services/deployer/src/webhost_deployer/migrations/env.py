"""Runs this service's migrations."""

from webhost_kit.database import run_migrations

run_migrations()
