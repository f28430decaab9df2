"""The servers' official images, as in docker-compose.yml, for WEBHOST_TEST_INFRA=containers."""

from collections.abc import Callable
from pathlib import Path

from testcontainers.core.container import DockerContainer
from webhost_local import nats_server
from webhost_local.installation.nats_config import Account
from webhost_local.ports import free_port
from webhost_local.postgres_server import Cluster

from tests.support.deadline import until


class ServerContainer:
    """One container of a fixed host port, which keeps its data until it is stopped."""

    def __init__(self, container: DockerContainer, *, port: int, is_ready: Callable[[], bool]):
        self.port = port
        self._container = container
        self._is_ready = is_ready
        container.start()
        until(is_ready, "the container to be ready", seconds=60)

    def start(self) -> None:
        self._container.get_wrapped_container().start()
        until(self._is_ready, "the container to be ready", seconds=60)

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def stop(self) -> None:
        self._container.stop()


def nats(directory: Path, accounts: dict[str, Account]) -> ServerContainer:
    port = free_port()
    config = directory / "nats.conf"
    nats_server.write_config(
        config, host="0.0.0.0", port=4222, store_dir=Path("/data"), accounts=accounts
    )
    config.chmod(0o644)
    container = (
        DockerContainer("nats:2.15-alpine")
        .with_volume_mapping(str(config), "/etc/nats/nats.conf", "ro")
        .with_command("nats-server --config /etc/nats/nats.conf")
        .with_bind_ports(4222, port)
    )
    return ServerContainer(container, port=port, is_ready=lambda: nats_server.is_ready(port))


def postgres(directory: Path, password: str) -> ServerContainer:
    port = free_port()
    container = (
        DockerContainer("postgres:18")
        .with_env("POSTGRES_PASSWORD", password)
        .with_command("postgres -c max_connections=200")
        .with_bind_ports(5432, port)
    )
    cluster = Cluster(directory, port, password)
    return ServerContainer(container, port=port, is_ready=cluster.is_ready)
