"""One service's real process, without a supervisor."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from webhost_local.forked import Forked, ForkServer
from webhost_local.ports import free_port

from tests.support.deadline import eventually

READY_S = 30
FORKS = ForkServer(
    {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), "PYTHONUNBUFFERED": "1"}, Path.cwd()
)
"""For all processes of this one that are Python's: their libraries are imported once."""


def environment(dsn: str, nats_url: str, **env: str) -> dict[str, str]:
    """What every service needs, on free ports, and `env`."""
    return {
        "PATH": os.environ["PATH"],
        "WEBHOST_LOCAL_STACK": "true",
        "MIGRATE_AT_START": "true",
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

    With WEBHOST_CRASH_FILE in `env`, a crash point that is written there ends it. As a context
    manager it is ready inside the block, and killed behind it.
    """

    module: str
    env: dict[str, str]
    client: aiohttp.ClientSession
    log: Path | None = None
    process: Forked | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def url(self) -> str:
        return f"http://{self.env['LISTEN']}"

    @property
    def ops_url(self) -> str:
        return f"http://{self.env['OPS_LISTEN']}"

    async def counted(self, name: str, **labels: str) -> float:
        """Return what this metric of it is now, over all series with these labels."""
        async with self.client.get(f"{self.ops_url}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    @property
    def crash_file(self) -> Path:
        return Path(self.env["WEBHOST_CRASH_FILE"])

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start it; returns when it says that it is ready."""
        await self.launch()
        await self.until_ready()

    async def launch(self) -> None:
        """Start it, and wait for nothing. What it logs goes to `log`, where there is one."""
        with self.log.open("ab") if self.log else os.fdopen(os.dup(2), "ab") as output:
            self.process = await FORKS.fork(
                self.module, env=self.env, cwd=Path.cwd(), output=output.fileno()
            )

    async def until_ready(self) -> None:
        async def ready() -> bool:
            assert self.running, f"{self.module} ended"
            return await self.ready()

        await eventually(ready, f"{self.module} to be ready", seconds=READY_S)

    async def complaints(self) -> dict[str, str]:
        """What its /readyz complains of, by part."""
        async with self.client.get(f"{self.ops_url}/readyz") as response:
            checks = (await response.json())["checks"]
        return {part: said for part, said in checks.items() if not said.startswith("ok")}

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
