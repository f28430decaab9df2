"""A version that is replaced while its first caller waits for a process of it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from webhost_local.edge.bindings import path_of
from webhost_local.edge.model import Script, Version
from webhost_local.edge.owner import Owner
from webhost_local.edge.settings import EdgeSettings
from webhost_local.edge.store import Store
from webhost_local.edge.workers import Workers

VERSION = Version("v1", [], "2026-01-01", [], 0)
SCRIPT = Script("one", "id", 0, 0, VERSION, [], [], {}, namespace="users")


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.chdir(tmp_path)
    settings = EdgeSettings(
        data_dir=tmp_path,
        listen="127.0.0.1:0",
        api_listen="127.0.0.1:0",
        account_id="account",
        zone_id="zone",
        api_token=SecretStr("token"),
    )
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    yield Workers(Store(tmp_path, Owner(None)), settings.workerd_path(), settings, lock)
    os.close(lock)


async def test_a_caller_that_waits_for_a_process_keeps_its_connection(workers: Workers) -> None:
    worker = workers.put(SCRIPT)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(5)
        caller.connect(path_of(SCRIPT.key))
        await workers.replace(SCRIPT)
        caller.sendall(b"hello")
        callee, _ = worker.bindings.socket.accept()
        with callee:
            assert callee.recv(5) == b"hello"
    await workers.close()
