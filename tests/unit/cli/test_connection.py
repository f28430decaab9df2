"""Which origin and which user a command takes."""

import time
from pathlib import Path

import jwt
import pytest
from webhost_cli import credentials
from webhost_cli.connection import origin_of, token_of
from webhost_cli.credentials import Login
from webhost_cli.errors import CommandError, ExitCode
from webhost_local.data_dir import DataDir, StackError
from webhost_local.issuer.identity import IssuerIdentity

ORIGIN = "https://webhost.example"


@pytest.fixture(autouse=True)
def _nobody_is_signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("WEBHOST_URL", "WEBHOST_TOKEN", "WEBHOST_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def login(token: str, *, expires_in_s: int) -> Login:
    return Login(token, int(time.time()) + expires_in_s, "https://issuer.example")


def test_an_url_is_taken_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOST_URL", "https://other.example")
    assert origin_of(f"{ORIGIN}/", None) == ORIGIN
    assert origin_of(None, None) == "https://other.example"


def test_a_data_dir_is_taken_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOST_URL", ORIGIN)
    with pytest.raises(StackError, match=f"no stack runs in {tmp_path}"):
        origin_of(None, tmp_path)


def test_what_is_no_address_is_wrong_usage() -> None:
    with pytest.raises(CommandError) as caught:
        origin_of("webhost.example", None)
    assert caught.value.exit_code == ExitCode.USAGE


def test_without_anything_nobody_is_signed_in() -> None:
    with pytest.raises(CommandError, match="webhost login") as caught:
        token_of(ORIGIN, None, None)
    assert caught.value.exit_code == ExitCode.NOT_SIGNED_IN


def test_a_login_is_kept_for_its_origin_and_its_owner_alone() -> None:
    file = credentials.store(ORIGIN, login("kept", expires_in_s=60))
    assert token_of(ORIGIN, None, None) == "kept"
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CommandError, match="not signed in"):
        token_of("https://other.example", None, None)


def test_an_expired_login_says_so() -> None:
    credentials.store(ORIGIN, login("old", expires_in_s=-1))
    with pytest.raises(CommandError, match="has expired") as caught:
        token_of(ORIGIN, None, None)
    assert caught.value.exit_code == ExitCode.NOT_SIGNED_IN


def test_the_variable_is_taken_before_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.store(ORIGIN, login("kept", expires_in_s=60))
    monkeypatch.setenv("WEBHOST_TOKEN", "given\n")
    assert token_of(ORIGIN, None, None) == "given"


def test_a_subject_is_signed_by_the_local_stack_before_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOST_TOKEN", "given")
    token = token_of(ORIGIN, tmp_path, "alice")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == "alice"
    assert claims["iss"] == IssuerIdentity.load_or_make(DataDir.at(tmp_path)).url
