"""The stage of each test, and a gateway on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from webhost_kit.bus import connect

from tests.integration.gateway.issuer import Issuer
from tests.integration.gateway.stage import Gateway, Stage, ended
from tests.integration.gateway.worker import Worker
from tests.support.serving import serving


@pytest.fixture
async def stage(database_url: str, nats_account: str, tmp_path: Path) -> AsyncIterator[Stage]:
    key = Ed25519PrivateKey.generate()
    issuer, worker = Issuer(), Worker(key.public_key())
    bus = await connect(nats_account, "test")
    async with (
        serving(issuer) as issuer.url,
        serving(worker) as worker_url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
        ended(
            Stage(
                dsn=database_url,
                nats_url=nats_account,
                bus=bus,
                issuer=issuer,
                worker=worker,
                worker_url=worker_url,
                key=key,
                directory=tmp_path,
                client=client,
            )
        ) as stage,
    ):
        yield stage
    await bus.close()


@pytest.fixture
async def gateway(stage: Stage) -> Gateway:
    return await stage.start()
