"""What the api refuses to start without."""

import pytest
from webhost_api.settings import Settings
from webhost_kit.keys import base64url
from webhost_kit.process.settings import load

KEY = base64url(b"k" * 32)
GOOD = {
    "WEBHOST_INSTALLATION_ID": "test",
    "DATABASE_URL": "postgresql://api:secret@127.0.0.1/db?sslmode=verify-full",
    "NATS_URL": "tls://127.0.0.1:4222",
    "LISTEN": "127.0.0.1:8080",
    "OPS_LISTEN": "127.0.0.1:8081",
    "JWT_ISSUER": "https://issuer.example",
    "JWT_AUDIENCE": "webhost",
    "SECRETS_PUBLIC_KEY": f"s1:{KEY}",
    "RESPONSE_KEYS": f"r1:{KEY}",
}


def loaded(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> Settings:
    for name, value in (GOOD | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return load(Settings, "webhost-api")


def test_what_is_needed_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, CORS_ALLOWED_ORIGINS="https://a.example, https://b.example")
    assert settings.issuer == "https://issuer.example"
    assert settings.cors_allowed_origins == ("https://a.example", "https://b.example")
    assert settings.keep_deployments == 5
    assert "free" in settings.tiers()


@pytest.mark.parametrize("domain", ["clerk.example", "https://clerk.example"])
def test_clerks_domain_names_the_issuer(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    settings = loaded(monkeypatch, JWT_ISSUER=None, CLERK_JWT_ISSUER_DOMAIN=domain)
    assert settings.issuer == "https://clerk.example"


@pytest.mark.accept("10")
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *[({name: None}, name) for name in GOOD],
        ({"CLERK_JWT_ISSUER_DOMAIN": "clerk.example"}, "CLERK_JWT_ISSUER_DOMAIN"),
        ({"JWT_ISSUER": "http://issuer.example"}, "JWT_ISSUER"),
        ({"LISTEN": "8080"}, "LISTEN"),
        ({"SECRETS_PUBLIC_KEY": KEY}, "SECRETS_PUBLIC_KEY must be"),
        ({"SECRETS_PUBLIC_KEY": f"s1:{KEY},s2:{KEY}"}, "SECRETS_PUBLIC_KEY must be one key"),
        ({"RESPONSE_KEYS": "r1:short"}, "RESPONSE_KEYS must be"),
        ({"KEEP_DEPLOYMENTS": "0"}, "KEEP_DEPLOYMENTS"),
        ({"WEBHOST_TIERS_FILE": "/does/not/exist"}, "WEBHOST_TIERS_FILE: tiers file /does"),
    ],
    ids=str,
)
def test_what_is_missing_or_wrong_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str | None],
    named: str,
) -> None:
    with pytest.raises(SystemExit):
        loaded(monkeypatch, **changes)
    line = capsys.readouterr().err
    assert named in line
    assert line.count("\n") == 1
    assert "secret" not in line


@pytest.mark.accept("6.D3")
def test_tokens_for_anybody_are_refused_unless_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        loaded(monkeypatch, JWT_AUDIENCE=None)
    line = capsys.readouterr().err
    assert "set JWT_AUDIENCE or JWT_AUTHORIZED_PARTIES, or else ALLOW_ANY_AUDIENCE" in line
    assert line.count("\n") == 1
    party = loaded(monkeypatch, JWT_AUDIENCE=None, JWT_AUTHORIZED_PARTIES="https://app.example")
    assert party.opt_outs() == []
    allowed = loaded(
        monkeypatch, JWT_AUDIENCE=None, JWT_AUTHORIZED_PARTIES=None, ALLOW_ANY_AUDIENCE="true"
    )
    assert allowed.opt_outs() == ["ALLOW_ANY_AUDIENCE"]
