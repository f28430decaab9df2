"""One edge for the tests that do not need their own, and ways to speak to it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from cloudflare import AsyncCloudflare

from tests.support.edge import Edge, start_edge


class Client:
    """The official SDK on one edge, with the account filled in, and plain HTTP to its origin."""

    def __init__(self, edge: Edge, http: aiohttp.ClientSession) -> None:
        self.edge = edge
        self.http = http
        self.sdk = AsyncCloudflare(
            api_token=edge.api_token, base_url=edge.api_base_url, max_retries=0
        )

    async def upload(self, name: str, code: str, **metadata: Any) -> None:
        await self.sdk.workers.scripts.update(
            name,
            account_id=self.edge.account_id,
            metadata={
                "main_module": "main.mjs",
                "compatibility_date": "2026-01-01",
                **metadata,
            },
            files=[("main.mjs", code.encode(), "application/javascript+module")],
        )

    async def publish(self, name: str) -> None:
        """Enable the script's own host."""
        await self.sdk.workers.scripts.subdomain.create(
            name, account_id=self.edge.account_id, enabled=True
        )

    def host(self, name: str) -> dict[str, str]:
        return {"Host": f"{name}.{self.edge.subdomain}.workers.dev"}

    async def get(self, name: str, path: str = "/", **headers: str) -> tuple[int, str]:
        """GET over the script's own host: status and text."""
        url = f"{self.edge.origin}{path}"
        async with self.http.get(url, headers={**self.host(name), **headers}) as response:
            return response.status, await response.text()


@pytest.fixture(scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session


@pytest.fixture(scope="session")
async def connect(http: aiohttp.ClientSession) -> AsyncIterator[Callable[[Edge], Client]]:
    clients: list[Client] = []

    def make(edge: Edge) -> Client:
        clients.append(Client(edge, http))
        return clients[-1]

    yield make
    for made in clients:
        await made.sdk.close()


@pytest.fixture(scope="session")
async def client(
    tmp_path_factory: pytest.TempPathFactory, connect: Callable[[Edge], Client]
) -> AsyncIterator[Client]:
    async with start_edge(tmp_path_factory.mktemp("edge")) as edge:
        yield connect(edge)
