"""Runs the migrations on the connection that the service gives."""

from webhost_kit import migrations

migrations.run()
