"""Alembic runs this to bring the schema up to date."""

from webhost_kit import migrations

migrations.run()
