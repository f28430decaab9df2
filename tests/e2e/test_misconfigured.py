"""A service that lacks a variable refuses to start, with one line that names it."""

import json
import os
import subprocess
import sys

import pytest
from webhost_kit.database.revisions import package_of
from webhost_kit.keys import base64url
from webhost_kit.process.reference import settings_of
from webhost_kit.process.settings import EXIT_MISCONFIGURED, load

KEY = base64url(bytes(32))

EVERY = {
    "WEBHOST_INSTALLATION_ID": "ins_1",
    "NATS_URL": "tls://127.0.0.1:1",
    "DATABASE_URL": "postgresql://127.0.0.1:1/webhost?sslmode=verify-full",
    "OPS_LISTEN": "127.0.0.1:1",
}
HTTP = {"LISTEN": "127.0.0.1:2"}
USERS = {"JWT_ISSUER": "https://issuer.example", "JWT_AUDIENCE": "webhost"}
REQUIRED = {
    "api": EVERY
    | HTTP
    | USERS
    | {
        "SECRETS_PUBLIC_KEY": f"secrets-1:{KEY}",
        "RESPONSE_KEYS": f"response-1:{KEY}",
    },
    "gateway": EVERY
    | HTTP
    | USERS
    | {"INVOKE_PRIVATE_KEYS": f"invoke-1:{KEY}", "RESPONSE_KEYS": f"response-1:{KEY}"},
    "telemetry-ingest": EVERY | HTTP | {"TELEMETRY_MASTER_KEYS": f"1:{KEY}"},
    "billing": EVERY,
    "deployer": EVERY
    | {
        "CLOUDFLARE_ACCOUNT_ID": "0" * 32,
        "CLOUDFLARE_API_TOKEN": "token",
        "CLOUDFLARE_ZONE_ID": "1" * 32,
        "CLOUDFLARE_WORKERS_CUSTOM_DOMAIN": "workers.example",
        "CONTROL_PLANE_TELEMETRY_REPORT_URL": "https://webhost.example/v1/telemetry/report",
        "TELEMETRY_MASTER_KEYS": f"1:{KEY}",
        "INVOKE_PUBLIC_KEYS": f"invoke-1:{KEY}",
        "PLATFORM_PRIVATE_KEYS": f"platform-1:{KEY}",
        "SECRETS_PRIVATE_KEYS": f"secrets-1:{KEY}",
    },
}
"""What each service cannot do without, outside of a local stack."""


@pytest.fixture
def configured(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment holds what the service requires, and nothing else."""
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in REQUIRED[service].items():
        monkeypatch.setenv(name, value)


@pytest.mark.accept("10")
@pytest.mark.parametrize("service", REQUIRED)
def test_without_variables_no_service_starts(service: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", package_of(service)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (EXIT_MISCONFIGURED, "")
    [line] = ended.stderr.splitlines()
    fields = settings_of(service).model_fields.items()
    for name in (name.upper() for name, field in fields if field.is_required()):
        assert name in line


@pytest.mark.accept("10")
@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("service", "variable"),
    [(service, variable) for service, variables in REQUIRED.items() for variable in variables],
)
def test_each_of_these_variables_is_required(
    service: str,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(SystemExit) as ended:
        load(settings_of(service), "webhost")
    assert ended.value.code == EXIT_MISCONFIGURED
    [line] = capsys.readouterr().err.splitlines()
    assert variable in line


@pytest.mark.accept("10")
@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("service", REQUIRED)
def test_these_variables_are_all_that_is_required(service: str) -> None:
    assert load(settings_of(service), "webhost")


@pytest.mark.accept("6.D3")
def test_what_is_switched_off_is_logged_at_every_start() -> None:
    plain = {"NATS_URL": "nats://127.0.0.1:1", "DATABASE_URL": "postgresql://127.0.0.1:1/webhost"}
    allowed = {"ALLOW_PLAIN_NATS": "true", "ALLOW_PLAIN_POSTGRES": "true"}
    with subprocess.Popen(
        [sys.executable, "-m", "webhost_billing"],
        env={"PATH": os.environ["PATH"], **REQUIRED["billing"], **plain, **allowed},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        process.kill()
    assert first["event"] == "protection switched off"
    assert sorted(first["by"]) == sorted(allowed)
