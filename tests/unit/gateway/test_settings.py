"""What the gateway refuses to start without, besides what every user-facing service needs."""

import pytest
from webhost_gateway.settings import Settings
from webhost_kit.keys import base64url
from webhost_kit.process.settings import load

GOOD = {
    "WEBHOST_INSTALLATION_ID": "test",
    "DATABASE_URL": "postgresql://gateway:secret@127.0.0.1/db?sslmode=verify-full",
    "NATS_URL": "tls://127.0.0.1:4222",
    "LISTEN": "127.0.0.1:8080",
    "OPS_LISTEN": "127.0.0.1:8081",
    "JWT_ISSUER": "https://issuer.example",
    "JWT_AUDIENCE": "webhost",
    "INVOKE_PRIVATE_KEYS": f"invoke-1:{base64url(bytes(32))}",
    "RESPONSE_KEYS": f"response-1:{base64url(bytes(32))}",
}


def loaded(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in (GOOD | changes).items():
        monkeypatch.setenv(name, value)
    return load(Settings, "webhost-gateway")


def test_what_is_needed_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "free" in loaded(monkeypatch).tiers()


@pytest.mark.accept("10")
@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("INVOKE_PRIVATE_KEYS", "invoke-1:short", "INVOKE_PRIVATE_KEYS"),
        ("RESPONSE_KEYS", "response-1:short", "RESPONSE_KEYS"),
        ("RESPONSE_KEYS", f"a:{base64url(bytes(32))},a:{base64url(bytes(32))}", "RESPONSE_KEYS"),
        ("DELEGATION_SECRETS", f"a:{base64url(bytes(31))}", "DELEGATION_SECRETS"),
        ("DELEGATION_SECRETS", f"a:{base64url(bytes(32))}!", "DELEGATION_SECRETS"),
        ("DELEGATION_SECRETS", f"a:{'A' * 45}", "DELEGATION_SECRETS"),
        ("DELEGATION_SECRETS", base64url(bytes(32)), "DELEGATION_SECRETS"),
        ("WORKERS_CONNECT_TO", "127.0.0.1:1", "WORKERS_CONNECT_TO"),
        ("LEASE_TTL_S", "0", "LEASE_TTL_S"),
        ("AGENT_REQUESTS_PER_MINUTE", "0", "AGENT_REQUESTS_PER_MINUTE"),
        ("WEBHOST_TIERS_FILE", "/does/not/exist", "WEBHOST_TIERS_FILE: tiers file /does/not/exist"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    named: str,
) -> None:
    with pytest.raises(SystemExit):
        loaded(monkeypatch, **{name: value})
    line = capsys.readouterr().err
    assert named in line
    assert line.count("\n") == 1
