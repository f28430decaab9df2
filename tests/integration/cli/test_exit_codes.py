"""The command as a process: exit codes, one line on stderr, never a traceback."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity


def webhost(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WEBHOST_", "NATS_"))}
    return subprocess.run(
        [sys.executable, "-m", "webhost_cli", *arguments],
        env={**kept, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def here(tmp_path: Path) -> dict[str, str]:
    """A user who has signed in nowhere, and a data directory where nothing runs."""
    return {"XDG_CONFIG_HOME": str(tmp_path), "WEBHOST_DATA_DIR": str(tmp_path / "data")}


def test_help_names_every_command_and_the_exit_codes() -> None:
    shown = webhost("--help").stdout
    commands = ("up", "status", "token", "login", "demo", "agents", "deploy", "deployments")
    for command in (
        *commands,
        "activate",
        "invoke",
        "usage",
        "billing",
        "deadletters",
        "users",
        "keys",
    ):
        assert f" {command} " in shown
    assert "Exit codes" in shown


SOMEWHERE = {"WEBHOST_URL": "http://127.0.0.1:1", "WEBHOST_TOKEN": "t"}


@pytest.mark.parametrize(
    ("arguments", "variables", "exit_code", "message"),
    [
        (("agents", "list"), {}, 1, "no stack is running in"),
        (("agents", "list", "--url", "https://x.example"), {}, 3, "not signed in"),
        (("agents", "list", "--url", "x"), {}, 2, "not an http(s) address"),
        (("me", "--url", "http://127.0.0.1:1"), {"WEBHOST_TOKEN": "t"}, 7, "no answer from"),
        (("login", "--url", "https://x.example"), {}, 2, "--issuer"),
        (("billing", "rebuild"), {"NATS_URL": "nats://127.0.0.1:1"}, 7, "the bus"),
        (("billing", "verify"), {"NATS_URL": "nats://127.0.0.1:1"}, 7, "the bus"),
        (("billing", "late"), {"NATS_URL": "nats://127.0.0.1:1"}, 7, "the bus"),
        (("cloudflare", "reconcile"), {"NATS_URL": "nats://127.0.0.1:1"}, 7, "the bus"),
        (("deadletters", "list"), {}, 1, "no stack is running in"),
        (("deadletters", "replay"), {}, 2, "--all"),
        (("token", "alice"), {}, 1, "no stack has run in"),
        (("token", ""), {}, 2, "the subject is empty"),
        (("token",), {"WEBHOST_URL": "https://x.example"}, 3, "not signed in"),
        (("deploy", "a", "--file", __file__), SOMEWHERE, 2, "TypeScript has to be compiled first"),
        (("keys", "create", "k", "--scope", "read", "--per", "day"), SOMEWHERE, 2, "go together"),
        (("keys", "rotate-platform", "invoke", "--out", "f"), {}, 2, "not for a local stack"),
        (("agents", "update", "a"), {"WEBHOST_URL": "http://127.0.0.1:1"}, 3, "not signed in"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    exit_code: int,
    message: str,
    here: dict[str, str],
) -> None:
    result = webhost(*arguments, **(here | variables))
    assert result.returncode == exit_code, result.stderr
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("agents", "list", "--limit", "101"),
        ("agents", "create"),
        ("deploy", "a", "--file", "is-not-there.mjs"),
        ("deadletters", "show", "one"),
        ("nonsense",),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], here: dict[str, str]) -> None:
    result = webhost(*arguments, **here)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (("agents", "list"), 7, "UNAVAILABLE"),
        (("agents", "list", "--limit", "101"), 2, "INVALID_REQUEST"),
        (("agents", "list", "--no-such-option"), 2, "INVALID_REQUEST"),
        (("agents", "list", "--url", "x"), 2, "INVALID_REQUEST"),
        (("agents", "list", "--data-dir", "."), 1, "FAILURE"),
        (("deploy", "a", "--file", __file__), 2, "INVALID_REQUEST"),
        (("agents", "delete", "agt_1"), 7, "UNAVAILABLE"),
    ],
)
def test_with_json_an_error_is_one_json_object(
    arguments: tuple[str, ...], exit_code: int, code: str, here: dict[str, str]
) -> None:
    result = webhost(*arguments, "--json", **(here | SOMEWHERE))
    assert result.returncode == exit_code, result.stderr
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["retryable"] == (code == "UNAVAILABLE")


def test_json_that_is_an_argument_is_no_option(here: dict[str, str]) -> None:
    result = webhost("agents", "get", "--", "--json", **(here | SOMEWHERE))
    assert result.stderr.startswith("webhost: no answer from")


def test_a_full_disk_is_named(here: dict[str, str], tmp_path: Path) -> None:
    IssuerIdentity.load_or_make(DataDir(Path(here["WEBHOST_DATA_DIR"])))
    with (tmp_path / "out").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "webhost_cli", "token", "alice"],
            env={**os.environ, **here},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )
    assert ended.stderr == "webhost: cannot write to standard output: File too large\n"
    assert ended.returncode == 1


def test_a_reader_that_goes_away_is_no_traceback(here: dict[str, str]) -> None:
    IssuerIdentity.load_or_make(DataDir(Path(here["WEBHOST_DATA_DIR"])))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody_reads:
        ended = subprocess.run(
            [sys.executable, "-m", "webhost_cli", "token", "alice"],
            env={**os.environ, **here},
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert ended.stderr == b""
    assert ended.returncode == 1
