"""Ingest takes up master keys while reports go on, and refuses a revoked key at once."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from webhost_contracts import maintenance
from webhost_contracts.events import DeploymentTelemetryKeyRevoked
from webhost_contracts.maintenance import KeysReply, Nothing
from webhost_kit.bus import rpc
from webhost_kit.keys import MasterKeys, base64url

from tests.integration.telemetry_ingest.conftest import MASTER, Deployment, Ingest, until_known
from tests.support.deadline import eventually
from tests.support.harness import in_background, running

NEXT = secrets.token_bytes(32)
BOTH = MasterKeys({1: MASTER, 2: NEXT})


def key_of(deployment: Deployment, version: int, generation: int) -> bytes:
    key = BOTH.telemetry_key(version, deployment.deployment_id, generation)
    assert key is not None
    return key


async def said(ingest: Ingest) -> KeysReply:
    subject = maintenance.subject("telemetry-ingest", maintenance.KEYS)
    return await rpc.call(ingest.bus, subject, Nothing(), KeysReply)


def write(file: Path, text: str) -> None:
    """Replace the file whole, as an operator is told to."""
    beside = file.with_name("beside")
    beside.write_text(text)
    beside.replace(file)


@pytest.fixture
async def with_file(
    database_url: str, nats_account: str, tmp_path: Path
) -> AsyncIterator[tuple[Ingest, Path]]:
    file = tmp_path / "keys"
    file.write_text(f"TELEMETRY_MASTER_KEYS=1:{base64url(MASTER)}\n")
    async with running(Ingest, database_url, nats_account) as harness:
        harness.service = harness.process(
            "webhost_telemetry_ingest",
            KEYS_FILE=str(file),
            TELEMETRY_MASTER_KEYS="unused",
            LOG_LEVEL="info",
        )
        harness.service.log = tmp_path / "log"
        await harness.service.start()
        yield harness, file


@pytest.mark.accept("7.rotation.taken-up")
async def test_keys_are_taken_up_from_their_file_while_reports_go_on(
    with_file: tuple[Ingest, Path],
) -> None:
    ingest, file = with_file
    deployment = Deployment()
    await ingest.begun(deployment)
    await until_known(ingest, deployment)
    statuses: list[int] = []

    async def report_on() -> None:
        while True:
            status, _, _ = await ingest.post(deployment, deployment.report())
            statuses.append(status)

    # Nothing is known of it yet: it is refused with a new version's key, or told to come again.
    unknown = Deployment()
    report = unknown.report()
    assert (await ingest.post(unknown, report, key=key_of(unknown, 2, 1)))[0] == 401
    reply = await said(ingest)
    assert reply.deployments == {"1": 1}
    assert reply.deployment_ids == {"1": (deployment.deployment_id,)}
    async with in_background(report_on()):
        write(file, "TELEMETRY_MASTER_KEYS=1:broken\n")
        await asyncio.sleep(1.2)  # longer than between two looks
        assert (await said(ingest)).keys == {"TELEMETRY_MASTER_KEYS": ("1",)}
        write(file, f"TELEMETRY_MASTER_KEYS=1:{base64url(MASTER)},2:{base64url(NEXT)}\n")

        async def taken_up() -> bool:
            return (await said(ingest)).keys == {"TELEMETRY_MASTER_KEYS": ("1", "2")}

        await eventually(taken_up, "the new key")
        assert ingest.service.log is not None
        assert "TELEMETRY_MASTER_KEYS: 1, 2" in ingest.service.log.read_text()
        assert (await ingest.post(unknown, report, key=key_of(unknown, 2, 1)))[0] == 503
    assert statuses
    assert set(statuses) == {202}


@pytest.mark.accept("7.rotation.revoked")
async def test_a_revoked_key_is_refused_from_the_news_on(
    ingest: Ingest, deployment: Deployment
) -> None:
    old, new = key_of(deployment, 1, 1), key_of(deployment, 1, 2)
    # A front may have its next key a moment before the news.
    for key in (old, new):
        assert (await ingest.post(deployment, deployment.report(), key=key))[0] == 202
    revoked = DeploymentTelemetryKeyRevoked(
        agent_id=deployment.agent_id, key_version=1, key_generation=2, operator="ops"
    )
    await ingest.given(deployment.user_id, deployment.deployment_id, revoked, version=2)

    async def refused() -> bool:
        status, problem, _ = await ingest.post(deployment, deployment.report(), key=old)
        return status == 401 and problem["error"]["code"] == "UNAUTHENTICATED"

    await eventually(refused, "the old key to be refused")
    assert (await ingest.post(deployment, deployment.report(), key=new))[0] == 202
    # Nor is it good again after a restart, which starts from the rows.
    await ingest.service.kill()
    await ingest.service.start()
    assert (await ingest.post(deployment, deployment.report(), key=old))[0] == 401
    assert (await ingest.post(deployment, deployment.report(), key=new))[0] == 202
