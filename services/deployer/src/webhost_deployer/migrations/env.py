"""Runs this service's migrations."""

from webhost_kit.database import migrations

migrations.run()
