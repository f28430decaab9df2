"""Runs this service's migrations."""

from webhost_kit import migrations

migrations.run()
