"""Alembic runs this to bring the schema up to date."""

from webhost_kit.database import migrations

migrations.run()
