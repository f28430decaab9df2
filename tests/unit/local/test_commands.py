"""What is wrong with a command's arguments is said in a line, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WEBHOST = (str(Path(sys.executable).with_name("webhost")),)
PYTHON = (sys.executable, "-P", "-m")


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OPS_LISTEN"}
    return subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        cwd=directory,
        env=environment | {"COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ((*WEBHOST, "up", "--port", "99999"), 2, "--port"),
        ((*WEBHOST, "up", "--port", "0"), 2, "--port"),
        ((*WEBHOST, "up", "--replicas", ""), 2, "name services and numbers"),
        ((*WEBHOST, "up", "--data-dir", "/etc/passwd"), 2, "'/etc/passwd' is a file"),
        ((*WEBHOST, "status", "--data-dir", "/etc/passwd"), 2, "'/etc/passwd' is a file"),
        ((*WEBHOST, "up", "--data-dir", "/proc/nope"), 1, "webhost: /proc/nope cannot be made: "),
        ((*PYTHON, "webhost_kit.process.migrate", "--help"), 0, "usage: "),
        ((*PYTHON, "webhost_kit.process.migrate", "nope"), 2, "there is no service 'nope'"),
        ((*PYTHON, "webhost_kit.process.healthcheck"), 1, "OPS_LISTEN is not set"),
        ((*PYTHON, "webhost_kit.process.healthcheck", "--help"), 1, "is not host:port"),
        ((*PYTHON, "webhost_local.installation.postgres_roles", "--help"), 0, "usage: "),
        (
            (*PYTHON, "webhost_local.installation.postgres_roles", "nope"),
            2,
            "there is no service nope",
        ),
        ((*PYTHON, "webhost_local.installation.bus_accounts", "--help"), 0, "usage: "),
    ],
)
def test_what_is_wrong_is_said(
    command: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    ended = run(tmp_path, *command)
    assert said in ended.stdout
    assert ended.returncode == code
    assert "Traceback" not in ended.stdout
    assert "CREATE ROLE" not in ended.stdout
