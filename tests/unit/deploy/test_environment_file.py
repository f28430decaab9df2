"""The made `.env`: complete, its owner's alone, and never written over."""

import subprocess
import sys
from pathlib import Path

from dotenv import dotenv_values


def made(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "webhost_local.compose", str(file), *options],
        check=False,
        capture_output=True,
        text=True,
    )


def test_it_is_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    assert made(file).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    again = made(file)
    assert again.returncode == 1
    assert "left as it is" in again.stderr
    assert file.read_text() == before


def test_every_one_has_keys_of_its_own(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        made(file)
    one, two = (dotenv_values(file) for file in files)
    secret = {name for name in one if "PASSWORD" in name or name.endswith(("_KEYS", "_TOKEN"))}
    assert len(secret) > 20
    assert not [name for name in secret if one[name] == two[name]]


def test_ports_are_where_they_belong(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    made(file, "--origin-port=9001", "--issuer-port=9002", "--store-port=9003")
    values = dotenv_values(file)
    assert values["ORIGIN_PORT"] == "9001"
    assert values["JWT_ISSUER"] == "http://127.0.0.1:9002"
    assert values["JWT_JWKS_URL"] == "http://issuer:9002/jwks"
    assert values["LEMONSQUEEZY_API_BASE_URL"] == "http://lemonsqueezy:9003"
    assert "http://127.0.0.1:9001" in (values["CORS_ALLOWED_ORIGINS"] or "")


def test_accounts_of_ones_own_are_left_to_fill_in(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    made(file, "--production")
    values = dotenv_values(file)
    assert values["PLATFORM_PRIVATE_KEYS"]
    assert not {"WEBHOST_LOCAL_STACK", "JWT_ISSUER", "CLOUDFLARE_API_TOKEN"} & values.keys()


def test_what_is_to_be_filled_in_is_named(tmp_path: Path) -> None:
    said = made(tmp_path / ".env", "--production").stdout
    assert "CLOUDFLARE_API_TOKEN" in said
    assert "JWT_ISSUER or CLERK_JWT_ISSUER_DOMAIN" in said
    assert "PRIVATE_KEYS" not in said
    assert "fill in" not in made(tmp_path / "local").stdout


def test_what_a_newer_version_reads_is_added(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    made(file, "--production")
    new = ("NATS_PASSWORD_OF_API=", "GATEWAY_REPLICAS=", "#DRAIN_S=")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith(new)))
    before = file.read_text()
    said = made(file, "--add-missing")
    assert said.returncode == 0
    assert "DRAIN_S, GATEWAY_REPLICAS, NATS_PASSWORD_OF_API; fill in" in said.stdout
    assert file.read_text().startswith(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert dotenv_values(file)["NATS_PASSWORD_OF_API"]
    assert "lacks nothing" in made(file, "--add-missing").stdout


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for port in ("abc", "99999", "0"):
        refused = made(tmp_path / ".env", f"--origin-port={port}")
        assert refused.returncode == 2
        assert f"{port!r} is no port" in refused.stderr
    for options in ((), ("--add-missing",)):
        nowhere = made(tmp_path / "nowhere/.env", *options)
        assert nowhere.returncode == 1
        assert nowhere.stderr == f"{tmp_path}/nowhere/.env: No such file or directory\n"
