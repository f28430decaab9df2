"""The servers' official images, as in docker-compose.yml, for WEBHOST_TEST_INFRA=containers."""

import signal
from collections.abc import Callable
from pathlib import Path

from testcontainers.core.container import DockerContainer
from webhost_local import nats_server
from webhost_local.installation.nats_config import Account
from webhost_local.ports import LOOPBACK, free_port
from webhost_local.postgres_server import INITDB_ARGUMENTS, Cluster

from tests.support.deadline import until

READY_S = 60
_HBA = """\
local all all scram-sha-256
host all all all scram-sha-256
host replication all all scram-sha-256
"""
"""What initdb lets loopback do, for whoever comes from outside of the container; the image's own
lets nobody replicate.
"""


class ServerContainer:
    """One container of a fixed port on loopback, which keeps its data until it is stopped."""

    def __init__(
        self, container: DockerContainer, *, inside: int, port: int, is_ready: Callable[[], bool]
    ) -> None:
        self.port = port
        # What listens on every address needs a port that is free at every one of them.
        container.ports[str(inside)] = (LOOPBACK, port)
        self._container = container
        self._is_ready = is_ready
        try:
            container.start()
            self._until_ready()
        except BaseException:
            container.stop()
            raise

    def start(self) -> None:
        """Start it, unless it runs; returns when it is ready."""
        self._container.get_wrapped_container().start()
        self._until_ready()

    def kill(self) -> None:
        """SIGKILL, if it runs; returns when all its processes are dead."""
        container = self._container.get_wrapped_container()
        container.reload()
        if container.status == "running":
            container.kill()
            container.wait()

    def send_signal(self, pid: int, number: signal.Signals) -> None:
        """To one of its processes, by the id that it has inside: out here it is somebody else's."""
        shell = ["sh", "-c", f"kill -{number.name.removeprefix('SIG')} {pid}"]
        ended = self._container.get_wrapped_container().exec_run(shell, user="root")
        assert ended.exit_code == 0, ended.output

    def stop(self) -> None:
        """Remove it, and its data."""
        self._container.stop()

    def _until_ready(self) -> None:
        try:
            until(self._is_ready, "the container to be ready", seconds=READY_S)
        except AssertionError as error:
            error.add_note(self._container.get_wrapped_container().logs(tail=20).decode())
            raise


def nats(directory: Path, accounts: dict[str, Account]) -> ServerContainer:
    """Start a nats-server with these accounts; its store is in the container."""
    port = free_port()
    config = directory / "nats.conf"
    nats_server.write_config(
        config, host="0.0.0.0", port=4222, store_dir=Path("/data"), accounts=accounts
    )
    config.chmod(0o644)
    container = (
        DockerContainer("nats:2.15-alpine")
        .with_volume_mapping(str(config), "/etc/nats/nats.conf", "ro")
        .with_command(["nats-server", "--config", "/etc/nats/nats.conf"])
    )
    return ServerContainer(
        container, inside=4222, port=port, is_ready=lambda: nats_server.is_ready(port)
    )


def postgres(directory: Path, password: str) -> ServerContainer:
    """Start a Postgres with a new cluster in the container; its superuser has this password."""
    port = free_port()
    cluster = Cluster(directory, port, password, durable=False)
    hba = directory / "pg_hba.conf"
    hba.write_text(_HBA)
    hba.chmod(0o644)
    container = (
        DockerContainer("postgres:18")
        .with_env("POSTGRES_PASSWORD", password)
        .with_env("POSTGRES_INITDB_ARGS", " ".join(INITDB_ARGUMENTS))
        .with_volume_mapping(str(hba), "/etc/postgres/pg_hba.conf", "ro")
        .with_command(["postgres", *cluster.settings(), "-c", "hba_file=/etc/postgres/pg_hba.conf"])
    )
    return ServerContainer(container, inside=5432, port=port, is_ready=cluster.is_ready)
