"""One service's real process, without a supervisor."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from webhost_local.child import tied_to_parent
from webhost_local.ports import free_port

from tests.support.deadline import eventually


@dataclass
class ServiceProcess:
    """A process of `python -m <module>`, which can be killed and started again."""

    module: str
    env: dict[str, str]
    client: aiohttp.ClientSession
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://{self.env['LISTEN']}"

    async def start(self) -> None:
        """Start it; returns when it says that it is ready."""
        process = self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self.module, env=self.env, preexec_fn=tied_to_parent()
        )

        async def ready() -> bool:
            assert process.returncode is None, f"{self.module} ended"
            return await self.ready()

        await eventually(ready, f"{self.module} to be ready", seconds=20)

    async def ready(self) -> bool:
        """Whether it answers, and is ready."""
        try:
            async with self.client.get(f"http://{self.env['OPS_LISTEN']}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; returns how it ended."""
        assert self.process is not None
        self.process.terminate()
        async with asyncio.timeout(15):
            return await self.process.wait()


@asynccontextmanager
async def service(
    module: str, dsn: str, nats_url: str, **env: str
) -> AsyncIterator[ServiceProcess]:
    """A service on this database and bus, ready; killed behind the block."""
    common = {
        "PATH": os.environ["PATH"],
        "WEBHOST_LOCAL_STACK": "true",
        "WEBHOST_INSTALLATION_ID": "test",
        "NATS_URL": nats_url,
        "DATABASE_URL": dsn,
        "LISTEN": f"127.0.0.1:{free_port()}",
        "OPS_LISTEN": f"127.0.0.1:{free_port()}",
        "LOG_LEVEL": "error",
    }
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        running = ServiceProcess(module, common | env, client)
        try:
            await running.start()
            yield running
        finally:
            await running.kill()
