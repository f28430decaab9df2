"""NATS and Postgres under the supervisor: killed at any moment, back with their data."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from webhost_local.child import processes_working_in
from webhost_local.ports import free_port

from tests.support.deadline import until

SCRIPT = Path(__file__).with_name("supervised_infra.py")


class Infra:
    """A supervisor over the two servers, which can be started again on the same directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = str(free_port())
        self._starts = 0
        self.start()

    def start(self) -> None:
        self._starts += 1
        log = self.directory / f"{self._starts}.log"
        with log.open("wb") as output:
            command = [sys.executable, SCRIPT, self.directory, self._port]
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        until(lambda: "all ready" in log.read_text(), "the servers to be ready", seconds=30)

    def pid(self, name: str) -> int:
        lines = (self.directory / "pids").read_text().splitlines()[1:]
        return int(dict(line.split() for line in lines)[name])

    def connect(self) -> psycopg.Connection:
        port = (self.directory / "pids").read_text().splitlines()[0]
        password = json.loads((self.directory / "secrets.json").read_text())["postgresSuperuser"]
        return psycopg.connect(
            f"postgresql://postgres:{password}@127.0.0.1:{port}/webhost", autocommit=True
        )

    def value(self) -> int | None:
        try:
            with self.connect() as connection:
                row = connection.execute("SELECT max(value) FROM kept").fetchone()
                return row[0] if row else None
        except psycopg.OperationalError:
            return None


@pytest.fixture
def infra(tmp_path: Path) -> Iterator[Infra]:
    infra = Infra(tmp_path)
    with infra.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS value")
    yield infra
    infra.process.terminate()
    infra.process.wait(timeout=30)
    assert processes_working_in(tmp_path / "postgres") == []


@pytest.mark.parametrize("name", ["nats", "postgres"])
def test_a_killed_server_comes_back(infra: Infra, name: str) -> None:
    busy = infra.connect()  # a backend that has no reason to look up
    before = infra.pid(name)
    os.kill(before, signal.SIGKILL)
    until(lambda: infra.pid(name) != before, "a new process", seconds=20)
    until(lambda: infra.value() == 1, "the data", seconds=20)
    busy.close()


def test_a_killed_supervisor_s_successor_finds_the_data(infra: Infra) -> None:
    busy = infra.connect()
    infra.process.kill()
    infra.process.wait()
    infra.start()
    assert infra.value() == 1
    busy.close()


def test_a_postmaster_file_that_names_a_stranger_is_no_obstacle(infra: Infra) -> None:
    infra.process.terminate()
    infra.process.wait(timeout=30)
    stranger = os.getppid()
    (infra.directory / "postgres" / "postmaster.pid").write_text(
        f"{stranger}\n{infra.directory / 'postgres'}\n0\n1\n\n127.0.0.1\n0 0\nready   \n"
    )
    infra.start()
    assert infra.value() == 1
