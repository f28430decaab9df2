"""Fixtures for every test."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.infra", "tests.support.stack", "tests.support.seed"]

# How long an example takes says something of the machine, not of the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
