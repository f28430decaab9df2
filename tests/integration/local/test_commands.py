"""`webhost up` and `webhost status` when they cannot do what was asked: one clear line."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity
from webhost_local.ports import free_port

WEBHOST = Path(sys.executable).with_name("webhost")


def refusal(*arguments: str | Path, **environment: str) -> str:
    """Run a command that must fail at once; return the one line that it says."""
    result = subprocess.run(
        [WEBHOST, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_status_where_nothing_runs(tmp_path: Path) -> None:
    assert f"no stack is running in {tmp_path}" in refusal("status", "--data-dir", tmp_path)
    none = str(tmp_path / "none")
    assert "no stack is running" in refusal("status", "--json", WEBHOST_DATA_DIR=none)
    assert not (tmp_path / "none").exists()


def test_status_of_a_stack_that_was_killed(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    with data_dir.locked():
        pass
    data_dir.state.write_text(
        '{"ready": true, "status": {"origin": "", "processes": [], "natsUrl": "",'
        ' "postgresDsn": "", "cloudflare": {"apiBaseUrl": "", "apiToken": "", "accountId": "",'
        ' "zoneId": ""}}}'
    )
    assert "no stack is running" in refusal("status", "--data-dir", tmp_path)


def test_up_where_a_stack_runs(tmp_path: Path) -> None:
    with DataDir(tmp_path).locked():
        said = refusal("up", "--data-dir", tmp_path, "--port", str(free_port()))
    assert f"a stack is already running in {tmp_path}" in said


@pytest.mark.parametrize("whose", ["origin", "issuer"])
def test_up_with_a_port_that_is_taken(tmp_path: Path, whose: str) -> None:
    issuer_port = IssuerIdentity.load_or_make(DataDir(tmp_path)).port
    with socket.socket() as other:
        other.bind(("127.0.0.1", issuer_port if whose == "issuer" else 0))
        other.listen()
        taken = other.getsockname()[1]
        origin = taken if whose == "origin" else free_port()
        said = refusal("up", "--data-dir", tmp_path, "--port", str(origin))
    assert f"port {taken} is taken" in said
