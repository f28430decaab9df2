"""One service's real process, without a supervisor."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from webhost_local.child import tied_to_parent
from webhost_local.ports import free_port

from tests.support.deadline import eventually

READY_S = 30


def environment(dsn: str, nats_url: str, **env: str) -> dict[str, str]:
    """What every service needs, on free ports, and `env`."""
    return {
        "PATH": os.environ["PATH"],
        "WEBHOST_LOCAL_STACK": "true",
        "WEBHOST_INSTALLATION_ID": "test",
        "NATS_URL": nats_url,
        "DATABASE_URL": dsn,
        "LISTEN": f"127.0.0.1:{free_port()}",
        "OPS_LISTEN": f"127.0.0.1:{free_port()}",
        "LOG_LEVEL": "error",
        **env,
    }


@dataclass
class ServiceProcess:
    """A process of `python -m <module>`, which can be killed and started again.

    With WEBHOST_CRASH_FILE in `env`, a crash point that is written there ends it.
    """

    module: str
    env: dict[str, str]
    client: aiohttp.ClientSession
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://{self.env['LISTEN']}"

    @property
    def ops_url(self) -> str:
        return f"http://{self.env['OPS_LISTEN']}"

    @property
    def crash_file(self) -> Path:
        return Path(self.env["WEBHOST_CRASH_FILE"])

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start it; returns when it says that it is ready."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self.module, env=self.env, preexec_fn=tied_to_parent()
        )
        await self.until_ready()

    async def until_ready(self) -> None:
        async def ready() -> bool:
            assert self.running, f"{self.module} ended"
            return await self.ready()

        await eventually(ready, f"{self.module} to be ready", seconds=READY_S)

    async def ready(self) -> bool:
        """Whether it answers, and is ready."""
        try:
            async with self.client.get(f"{self.ops_url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, if it runs; returns when it is dead."""
        if self.process is not None and self.running:
            self.process.kill()
            await self.died()

    async def stop(self) -> int:
        """SIGTERM, if it runs; returns how it ended."""
        assert self.process is not None
        if self.running:
            self.process.terminate()
        return await self.died()

    async def died(self) -> int:
        """Return how it ended, once it has."""
        assert self.process is not None
        async with asyncio.timeout(READY_S):
            return await self.process.wait()


@asynccontextmanager
async def service(
    module: str, dsn: str, nats_url: str, **env: str
) -> AsyncIterator[ServiceProcess]:
    """A service on this database and bus, ready; killed behind the block."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        running = ServiceProcess(module, environment(dsn, nats_url, **env), client)
        try:
            await running.start()
            yield running
        finally:
            await running.kill()
