"""A service's process imports what it uses: what it does not use costs memory and a later start."""

import json
import subprocess
import sys

import pytest

EVERYWHERE = {"alembic", "rich", "pygments", "typer", "webhost_local", "webhost_cli"} | {
    # Of traces, where no collector is configured.
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "google.protobuf",
    "requests",
}
HEAVY = {"aiohttp", "httpx", "fastapi", "faststream", "cloudflare", "jwt"}

_PROBE = """
import json, sys
import webhost_kit.process.start
import {package}.app, {package}.settings
json.dump([name for name, module in sys.modules.items() if module is not None], sys.stdout)
"""


@pytest.mark.parametrize(
    ("package", "needed"),
    [
        ("webhost_gateway", {"httpx", "jwt"}),
        ("webhost_telemetry_ingest", set[str]()),
        ("webhost_api", {"fastapi", "faststream", "httpx", "jwt"}),
        ("webhost_deployer", {"cloudflare", "faststream", "httpx"}),
        ("webhost_billing", {"faststream", "httpx"}),
    ],
)
def test_only_what_is_needed_is_imported(package: str, needed: set[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _PROBE.format(package=package)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    modules = set(json.loads(ended.stdout))
    assert EVERYWHERE.intersection(modules) == set()
    assert HEAVY.intersection(modules) == needed
