"""The servers of production's StatefulSet, as real ones on this machine: three, with TLS."""

import subprocess
from collections.abc import Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import KeyValueConfig, StorageType, StreamConfig
from webhost_contracts import subjects
from webhost_kit.bus import streams
from webhost_local.nats_server import binary
from webhost_local.ports import free_port

from deploy.rendering import containers_of, of_kind, render
from deploy.secrets import Places, secrets
from tests.support.deadline import eventually, until
from tests.support.http_host import certificate
from tests.support.processes import ServerProcess

SERVERS = 3
PEER = "webhost-nats-{}.webhost-nats-peers:6222"


class Cluster:
    """Servers with the configuration and the variables of the manifests.

    Replaced is what a machine has once: ports, directories, and the names of the Pods.
    """

    def __init__(self, directory: Path) -> None:
        objects = render("production")
        [self._files] = [
            it["data"]
            for it in of_kind(objects, "ConfigMap")
            if it["metadata"]["name"].startswith("webhost-nats-")
        ]
        [stateful_set] = of_kind(objects, "StatefulSet")
        assert stateful_set["spec"]["replicas"] == SERVERS
        [self._container] = containers_of(stateful_set)
        made = {it["metadata"]["name"]: it["stringData"] for it in secrets(Places())}
        self.passwords = made["webhost-nats"]
        self._directory = directory
        _, self.authority = certificate(directory, "localhost")
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (directory / name).write_bytes(self.authority.read_bytes())
        self.ports = [free_port() for _ in range(SERVERS + 1)]
        self._routes = [free_port() for _ in range(SERVERS + 1)]
        self.servers = [self.server(number) for number in range(SERVERS)]

    def server(self, number: int, **changed: str) -> ServerProcess:
        """Return one server, not started; `changed` are passwords that it has instead."""
        own = self._directory / f"server-{number}"
        own.mkdir()
        text = self._files["nats.conf"]
        for old, new in {
            '"0.0.0.0:4222"': f'"127.0.0.1:{self.ports[number]}"',
            '"0.0.0.0:6222"': f'"127.0.0.1:{self._routes[number]}"',
            '"0.0.0.0:8222"': f'"127.0.0.1:{free_port()}"',
            "/run/nats/": f"{own}/",
            "/etc/nats-tls/": f"{self._directory}/",
            '"/data"': f'"{own}/data"',
        }.items():
            assert old in text
            text = text.replace(old, new)
        (own / "nats.conf").write_text(text)
        (own / "accounts.conf").write_text(self._files["accounts.conf"])
        variables = self._variables(f"webhost-nats-{number}", self.passwords | changed)
        return ServerProcess(
            ["env", *variables, str(binary()), "--config", str(own / "nats.conf")],
            port=self.ports[number],
            directory=own,
            is_ready=(own / "nats.pid").exists,
        )

    def log(self, number: int) -> str:
        return (self._directory / f"server-{number}.log").read_text()

    def lame_duck(self, number: int) -> None:
        """Do what ends a Pod, before SIGTERM does."""
        [program, *arguments] = self._container["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "/nats-server"
        file = self._directory / f"server-{number}/nats.pid"
        command = [it.replace("/run/nats/nats.pid", str(file)) for it in arguments]
        subprocess.run([binary(), *command], check=True, timeout=10)

    def _variables(self, name: str, passwords: dict[str, str]) -> list[str]:
        """As the kubelet makes them."""
        found: dict[str, str] = {}
        for entry in self._container["env"]:
            source = entry.get("valueFrom")
            if source is None:
                value = str(entry["value"])
                for known, text in found.items():
                    value = value.replace(f"$({known})", text)
                for number, port in enumerate(self._routes):
                    value = value.replace(PEER.format(number), f"localhost:{port}")
            elif "secretKeyRef" in source:
                value = passwords[source["secretKeyRef"]["key"]]
            else:
                value = name
            found[entry["name"]] = value
        return [f"{name}={value}" for name, value in found.items()]

    @asynccontextmanager
    async def client(self, user: str, *numbers: int) -> Any:
        password = self.passwords[f"PASSWORD_OF_{user.upper()}"]
        client = await nats.connect(
            [f"tls://{user}:{password}@localhost:{self.ports[it]}" for it in numbers],
            tls_handshake_first=True,
            inbox_prefix=f"_INBOX.{user}".encode(),
        )
        try:
            yield client
        finally:
            await client.close()


@contextmanager
def running(cluster: Cluster) -> Generator[None]:
    try:
        for server in cluster.servers:
            server.start()
        yield
    finally:
        for server in cluster.servers:
            server.stop()


async def make_streams(client: Client) -> None:
    """All of them on three servers, with the sizes that they are declared with."""
    js = client.jetstream(timeout=10)
    for config in streams.STREAMS:
        await js.add_stream(replace(config, num_replicas=SERVERS))
    await js.create_key_value(
        KeyValueConfig(subjects.TOTALS_BUCKET, max_bytes=streams.TOTALS_BYTES, replicas=SERVERS)
    )
    artifacts = StreamConfig(
        subjects.ARTIFACTS_STREAM,
        subjects=[f"$O.{subjects.ARTIFACTS_BUCKET}.>"],
        max_bytes=streams.ARTIFACTS_BYTES,
        storage=StorageType.FILE,
        num_replicas=SERVERS,
    )
    await js.add_stream(artifacts)


async def test_three_servers_hold_every_stream_and_one_may_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cluster.authority))
    with running(cluster):
        async with cluster.client("operator", 0) as operator:

            async def has_leader() -> bool:
                try:
                    await operator.jetstream(timeout=1).account_info()
                except (NatsError, TimeoutError):
                    return False
                return True

            await eventually(has_leader, "JetStream to have a leader", seconds=60)
            await make_streams(operator)

        async with cluster.client("api", 1, 2) as api:
            js = api.jetstream(timeout=10)
            await js.publish("evt.usr_1.user.usr_1", b"first")
            await api.publish("evt.usr_1.account.usr_1", b"not the api's")

            async def is_refused() -> bool:
                said = 'user:api" - Publish Violation - Subject "evt.usr_1.account.usr_1"'
                return any(said in cluster.log(it) for it in (1, 2))

            await eventually(is_refused, "the server to refuse what is not the api's", seconds=10)

            cluster.lame_duck(0)
            until(lambda: "Server Exiting" in cluster.log(0), "it to have gone", seconds=60)

            async def is_taken() -> bool:
                try:
                    await js.publish("evt.usr_1.user.usr_1", b"second")
                except (NatsError, TimeoutError):
                    return False
                return True

            await eventually(is_taken, "the other two to take facts", seconds=30)


def test_a_server_without_the_routes_password_is_no_part_of_it(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    stranger = cluster.server(SERVERS, PASSWORD_OF_ROUTES="guessed-it-as-long-as-theirs")
    cluster.servers.append(stranger)
    with running(cluster):
        until(
            lambda: any("authentication error" in cluster.log(it) for it in range(SERVERS)),
            "it to be refused",
            seconds=30,
        )
        known = [line for line in cluster.log(0).splitlines() if f"webhost-nats-{SERVERS}" in line]
        assert known == []
