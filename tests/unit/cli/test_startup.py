"""A command imports what it needs, so that `webhost` starts at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from webhost_cli.app import COMMANDS, load
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity

# What makes the start slow, and which command has a use for it.
HEAVY = {"httpx", "nats", "aiohttp", "authlib", "cryptography", "rich.progress", "sqlalchemy"}

_PROBE = """
import json, sys
from webhost_cli.__main__ import main
try:
    main()
except SystemExit as ended:
    json.dump([ended.code or 0, sorted(sys.modules)], sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("--help",), set[str]()),
        (("agents", "--help"), {"httpx", "rich.progress"}),  # httpx brings rich's along
        (("status", "--help"), set[str]()),
        (("deadletters", "--help"), {"nats", "aiohttp"}),
        (("token", "alice"), {"cryptography"}),
        (("token", "--help"), set[str]()),
    ],
)
def test_only_what_is_needed_is_imported(
    arguments: tuple[str, ...], needed: set[str], tmp_path: Path
) -> None:
    IssuerIdentity.load_or_make(DataDir.at(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments],
        env={"WEBHOST_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    exit_code, modules = json.loads(ended.stderr)
    assert exit_code == 0
    assert HEAVY.intersection(modules) == needed


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_page_says_what_the_command_says(name: str) -> None:
    assert load(name).help == COMMANDS[name][1]


def test_every_module_with_commands_is_listed() -> None:
    package = Path(sys.modules["webhost_cli"].__path__[0])
    registering = {
        ".".join(file.relative_to(package).with_suffix("").parts)
        for file in package.rglob("*.py")
        if "def register(app: typer.Typer)" in file.read_text("utf-8")
    }
    assert {module for module, _ in COMMANDS.values()} == registering
