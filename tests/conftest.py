"""Fixtures for every test."""

pytest_plugins = ["tests.support.infra", "tests.support.stack", "tests.support.seed"]
