"""Who works in an installation."""

SERVICES = ("api", "deployer", "gateway", "telemetry-ingest", "billing")
OPERATOR = "operator"
"""Whoever runs the installation, with its tools."""
