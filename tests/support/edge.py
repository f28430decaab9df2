"""A local edge for tests: a real process on free ports, and the ways to speak to it.

`start_edge(data_dir, **env)` yields once it is ready and ends it cleanly, unless the test already
did. `env` adds variables (`EDGE_UPSTREAM_API="http://127.0.0.1:1"`); `module` is what runs.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from cloudflare import AsyncCloudflare
from webhost_local.forked import Forked
from webhost_local.ports import free_port

from tests.support.service import FORKS

READY_SECONDS = 20.0
STOP_SECONDS = 20.0
HTTP_SECONDS = 30.0


@dataclass(frozen=True)
class Edge:
    """A running edge, Cloudflare's SDK on its API, and plain HTTP to its origin.

    `origin` and `api_base_url` are base URLs without a slash at the end. `log` is what it printed.
    """

    origin: str
    api_base_url: str
    api_token: str
    account_id: str
    zone_id: str
    subdomain: str
    process: Forked
    log: Path
    sdk: AsyncCloudflare
    http: aiohttp.ClientSession

    async def upload(self, name: str, code: str, **metadata: Any) -> None:
        await self.sdk.workers.scripts.update(
            name,
            account_id=self.account_id,
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
            name, account_id=self.account_id, enabled=True
        )

    def host(self, name: str) -> dict[str, str]:
        return {"Host": f"{name}.{self.subdomain}.workers.dev"}

    async def get(self, name: str, path: str = "/", **headers: str) -> tuple[int, str]:
        """GET over the script's own host: status and text."""
        url = f"{self.origin}{path}"
        async with self.http.get(url, headers={**self.host(name), **headers}) as response:
            return response.status, await response.text()


@asynccontextmanager
async def start_edge(
    data_dir: Path, *, module: str = "webhost_local.edge", **env: str
) -> AsyncGenerator[Edge]:
    origin, api = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    variables = {
        "EDGE_DATA_DIR": str(data_dir),
        "EDGE_LISTEN": origin,
        "EDGE_API_LISTEN": api,
        "EDGE_ACCOUNT_ID": "0123456789abcdef0123456789abcdef",
        "EDGE_ZONE_ID": "fedcba9876543210fedcba9876543210",
        "EDGE_API_TOKEN": "local-edge-token-for-tests",
        "EDGE_WORKERS_DEV_SUBDOMAIN": "local",
        **env,
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_")}
    log = data_dir.with_name(f"{data_dir.name}.log")
    with log.open("ab") as output:
        process = await FORKS.fork(
            module, env={**inherited, **variables}, cwd=Path.cwd(), output=output.fileno()
        )
    base_url, token = f"http://{api}/client/v4", variables["EDGE_API_TOKEN"]
    timeout = aiohttp.ClientTimeout(total=HTTP_SECONDS)
    try:
        await _ready(f"http://{api}/readyz", process)
        async with (
            AsyncCloudflare(api_token=token, base_url=base_url, max_retries=0) as sdk,
            aiohttp.ClientSession(timeout=timeout) as http,
        ):
            yield Edge(
                origin=f"http://{origin}",
                api_base_url=base_url,
                api_token=token,
                account_id=variables["EDGE_ACCOUNT_ID"],
                zone_id=variables["EDGE_ZONE_ID"],
                subdomain=variables["EDGE_WORKERS_DEV_SUBDOMAIN"],
                process=process,
                log=log,
                sdk=sdk,
                http=http,
            )
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
                raise


async def _ready(url: str, process: Forked) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(READY_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"the edge ended with {process.returncode} before it was ready")
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)
