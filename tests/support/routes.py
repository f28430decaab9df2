"""A NATS cluster of three servers whose routes to each other can be held, while clients stay."""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from webhost_local import nats_server
from webhost_local.installation.nats_config import Account
from webhost_local.ports import free_port

from tests.support.processes import ServerProcess
from tests.support.proxy import Proxy

NAMES = ("one", "two", "three")
NOWHERE = "127.0.0.1:1"
"""What the servers tell each other of where they are: they find no way around the proxies."""


@dataclass
class Routed:
    """The servers, and a proxy on the way from each of them to each other one."""

    servers: dict[str, ServerProcess]
    proxies: dict[tuple[str, str], Proxy]

    def urls(self, account: str, *names: str) -> str:
        """The addresses of these servers, or of all, for a client of this `user:password`."""
        some = [self.servers[name] for name in names] or self.servers.values()
        return ",".join(f"nats://{account}@127.0.0.1:{server.port}" for server in some)

    def name_of(self, port: int | None) -> str:
        """Which server clients reach at this port."""
        [found] = [name for name, server in self.servers.items() if server.port == port]
        return found

    def cut_off(self, name: str) -> None:
        """Let nothing pass between this server and the others; nobody is told."""
        for proxy in self._ways(name):
            proxy.hold()

    def join(self, name: str) -> None:
        """Let everything pass again."""
        for proxy in self._ways(name):
            proxy.release()

    def _ways(self, name: str) -> Iterator[Proxy]:
        return (proxy for way, proxy in self.proxies.items() if name in way)


@asynccontextmanager
async def routed_cluster(directory: Path, accounts: dict[str, Account]) -> AsyncGenerator[Routed]:
    """Run the cluster until the block ends; its stores are empty."""
    own = {name: free_port() for name in NAMES}
    async with AsyncExitStack() as stack:
        proxies = {
            (one, other): await stack.enter_async_context(Proxy(own[other]))
            for one, other in permutations(NAMES, 2)
        }
        servers: dict[str, ServerProcess] = {}
        for name in NAMES:
            ports = {other: proxies[name, other].port for other in NAMES if other != name}
            server = _server(directory, name, accounts, {name: own[name], **ports})
            stack.callback(server.stop)
            server.start()
            servers[name] = server
        yield Routed(servers, proxies)


def _server(
    directory: Path, name: str, accounts: dict[str, Account], ports: dict[str, int]
) -> ServerProcess:
    port, store, config = free_port(), directory / name, directory / f"{name}.conf"
    store.mkdir()
    place = nats_server.Cluster(name, ports, "of-the-routes")
    nats_server.write_config(config, port=port, store_dir=store, accounts=accounts, cluster=place)
    written = json.loads(config.read_text())
    written["cluster"]["advertise"] = NOWHERE
    config.write_text(json.dumps(written))
    return ServerProcess(
        nats_server.command(config),
        port=port,
        directory=store,
        is_ready=lambda: nats_server.is_ready(port),
    )
