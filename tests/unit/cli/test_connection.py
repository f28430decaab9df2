"""Which origin and which user a command takes."""

import sys
import time
from pathlib import Path

import jwt
import pytest
from webhost_cli import credentials
from webhost_cli.connection import origin_of, shell_bearer_of, token_of
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
    with pytest.raises(StackError, match=f"no stack is running in {tmp_path}"):
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
    issuer = IssuerIdentity.load_or_make(DataDir.at(tmp_path))
    token = token_of(ORIGIN, tmp_path, "alice")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == "alice"
    assert claims["iss"] == issuer.url


def test_where_no_stack_has_run_nobody_is_signed_for_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=f"no stack has run in {tmp_path}.*webhost up"):
        token_of(ORIGIN, tmp_path, "alice")
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_no_subject(tmp_path: Path) -> None:
    IssuerIdentity.load_or_make(DataDir.at(tmp_path))
    with pytest.raises(CommandError, match="subject is empty") as caught:
        token_of(ORIGIN, tmp_path, "")
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("url", "data_dir", "subject", "arguments"),
    [
        (None, None, None, ""),
        (ORIGIN, None, None, f" --url {ORIGIN}"),
        (None, Path("a b"), None, " --data-dir 'a b'"),
        (ORIGIN, Path("data"), "a b", " 'a b' --data-dir data"),
    ],
)
def test_a_shell_gets_the_same_token_from_a_command(
    url: str | None,
    data_dir: Path | None,
    subject: str | None,
    arguments: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/webhost"])
    assert shell_bearer_of(url, data_dir, subject) == f"$(.venv/bin/webhost token{arguments})"
    monkeypatch.setattr(sys, "argv", ["cli/src/webhost_cli/__main__.py"])
    assert shell_bearer_of(url, data_dir, subject) == f"$(webhost token{arguments})"


def test_a_shell_gets_the_variables_token_from_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEBHOST_TOKEN", "given")
    assert shell_bearer_of(ORIGIN, None, None) == "$WEBHOST_TOKEN"
    assert "token alice" in shell_bearer_of(None, None, "alice")
