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
