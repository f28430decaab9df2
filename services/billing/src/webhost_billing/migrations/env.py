"""Runs the migrations on the connection that the service gives."""

from webhost_kit.database import migrations

migrations.run()
