"""What billing refuses to start with, besides what every service does."""

from pathlib import Path

import pytest
from webhost_billing.settings import Settings
from webhost_kit.process.settings import load

GOOD = {
    "WEBHOST_INSTALLATION_ID": "test",
    "DATABASE_URL": "postgresql://billing@127.0.0.1/db?sslmode=verify-full",
    "NATS_URL": "tls://127.0.0.1:4222",
    "OPS_LISTEN": "127.0.0.1:8081",
}


@pytest.mark.parametrize("percent", ["-1", "101", "a quarter"])
def test_a_part_is_from_nothing_to_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], percent: str
) -> None:
    for name, value in (GOOD | {"MIN_COMPUTE_PERCENT": percent}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load(Settings, "webhost-billing")
    assert "MIN_COMPUTE_PERCENT" in capsys.readouterr().err


def test_the_part_is_a_quarter_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    assert load(Settings, "webhost-billing").rules().min_compute_percent == 25
    monkeypatch.setenv("MIN_COMPUTE_PERCENT", "0")
    assert load(Settings, "webhost-billing").rules().min_compute_percent == 0


@pytest.mark.accept("10")
def test_a_bad_price_file_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("prices 3")
    for name, value in (GOOD | {"WEBHOST_PRICES_FILE": str(file)}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load(Settings, "webhost-billing")
    line = capsys.readouterr().err
    assert line.startswith(f"webhost-billing: cannot start: WEBHOST_PRICES_FILE: price file {file}")
    assert "(at line 1, column 8)" in line
    assert line.count("\n") == 1


KEY = "A" * 42 + "A"
SELLING = {
    "LEMONSQUEEZY_API_KEY": "an-api-key",
    "LEMONSQUEEZY_STORE_ID": "7",
    "LEMONSQUEEZY_VARIANTS": "11:pro, 12:pro ,13:starter",
    "LEMONSQUEEZY_WEBHOOK_SECRETS": "the older secret of it, the newer secret of it",
    "LEMONSQUEEZY_CHECKOUT_KEYS": f"c2:{KEY},c1:{KEY}",
}


def loaded(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name, value in (GOOD | changes).items():
        monkeypatch.setenv(name, value)
    return load(Settings, "webhost-billing")


@pytest.mark.accept("8.6.unconfigured")
async def test_what_is_sold_is_configured_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert loaded(monkeypatch).provider() is None
    settings = loaded(monkeypatch, **SELLING)
    provider = settings.provider()
    assert provider is not None
    assert provider.variants == {"11": "pro", "12": "pro", "13": "starter"}
    assert provider.webhook_secrets == (b"the older secret of it", b"the newer secret of it")
    assert list(provider.checkout_keys) == ["c2", "c1"]
    assert not provider.test_mode
    for secret in ("an-api-key", "the older secret", KEY):
        assert secret not in repr(settings)
        assert secret not in repr(provider)
    await provider.client.close()


@pytest.mark.accept("8.6.unconfigured")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({name: ""}, f"set {name} too") for name in SELLING),
        ({"LEMONSQUEEZY_VARIANTS": "11"}, "<variant id>:<tier>"),
        ({"LEMONSQUEEZY_VARIANTS": "11:pro,11:starter"}, "each once"),
        ({"LEMONSQUEEZY_VARIANTS": "11:gold"}, "'gold' is no tier"),
        ({"LEMONSQUEEZY_VARIANTS": "11:free"}, "'free' is no tier"),
        ({"LEMONSQUEEZY_WEBHOOK_SECRETS": "short"}, "at least 16 characters"),
        ({"LEMONSQUEEZY_CHECKOUT_KEYS": "c1:short"}, "LEMONSQUEEZY_CHECKOUT_KEYS must be"),
        # What stands in for it on one machine speaks no https.
        ({"LEMONSQUEEZY_API_BASE_URL": "http://127.0.0.1:9"}, "must be an https address"),
        ({"LEMONSQUEEZY_REDIRECT_URL": "http://app.example"}, "must be an https address"),
    ],
)
def test_a_part_of_it_is_refused_with_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    said: str,
) -> None:
    with pytest.raises(SystemExit):
        loaded(monkeypatch, **(SELLING | changes))
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
