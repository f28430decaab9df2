"""What bodies can take before anybody knows who sends them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from webhost_contracts import signatures
from webhost_telemetry_ingest.routes import ADDRESS_BYTES, BODY_S, SMALL_BYTES

from tests.integration.telemetry_ingest.conftest import Deployment, Ingest
from tests.support.deadline import eventually
from tests.support.harness import running

FAILURES = 5
SIZE = 60_000
MALLORY, HONEST = "192.0.2.1", "192.0.2.2"


@pytest.fixture
async def ingest(database_url: str, nats_account: str) -> AsyncIterator[Ingest]:
    """Ingest behind a proxy, where an address is slowed down after a few failures."""
    async with running(Ingest, database_url, nats_account) as harness:
        harness.service.env |= {
            "TELEMETRY_FAILURES_PER_MINUTE": str(FAILURES),
            "TRUSTED_PROXIES": "127.0.0.1",
        }
        await harness.service.start()
        yield harness


@asynccontextmanager
async def begun(
    ingest: Ingest, whose: Deployment, address: str, *, sent: bytes = b"{", size: int = SIZE
) -> AsyncIterator[asyncio.StreamReader]:
    """A report with the beginning of its body."""
    host, _, port = ingest.service.env["LISTEN"].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        "POST /v1/telemetry/report HTTP/1.1",
        "Host: ingest",
        f"Content-Length: {size}",
        f"X-Forwarded-For: {address}",
        f"{signatures.TELEMETRY_DEPLOYMENT_HEADER}: {whose.deployment_id}",
        f"{signatures.TELEMETRY_SIGNATURE_HEADER}: v1={'0' * 64}",
    )
    writer.write("\r\n".join([*head, "", ""]).encode() + sent)
    await writer.drain()
    try:
        yield reader
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(BODY_S + 5):
        return int((await reader.readline()).split()[1])


def padded(deployment: Deployment, size: int) -> bytes:
    report = deployment.report()
    return report + b" " * (size - len(report))


@pytest.mark.accept("6.B5", "6.B6")
async def test_unverified_bodies_of_an_address_have_little_room(
    ingest: Ingest, deployment: Deployment
) -> None:
    async def post(address: str, size: int) -> int:
        named = {"X-Forwarded-For": address}
        return (await ingest.post(deployment, padded(deployment, size), headers=named))[0]

    async with AsyncExitStack() as stack:
        for _ in range(ADDRESS_BYTES // SIZE):
            await stack.enter_async_context(begun(ingest, Deployment(), MALLORY))

        began_s = time.monotonic()
        one_more = await stack.enter_async_context(begun(ingest, Deployment(), MALLORY))
        assert await status_of(one_more) == 503
        assert time.monotonic() - began_s < BODY_S / 2

        # A report as our Workers write them needs no room, and others have their own.
        assert await post(MALLORY, SMALL_BYTES) == 202
        assert await post(MALLORY, SIZE) == 503
        assert await post(HONEST, SIZE) == 202


@pytest.mark.accept("6.B6", "6.C1")
async def test_a_body_that_does_not_come_in_time_is_a_failure(
    ingest: Ingest, deployment: Deployment
) -> None:
    unknown = Deployment()
    began_s = time.monotonic()
    async with AsyncExitStack() as stack:
        slow = [
            await stack.enter_async_context(begun(ingest, unknown, MALLORY))
            for _ in range(FAILURES)
        ]
        assert await asyncio.gather(*(status_of(each) for each in slow)) == [408] * FAILURES
    assert BODY_S - 1 < time.monotonic() - began_s < BODY_S + 5
    async with begun(ingest, unknown, MALLORY) as one_more:
        assert await status_of(one_more) == 429
    # That is not a known deployment's, whose Worker may have the same address.
    named = {"X-Forwarded-For": MALLORY}
    assert (await ingest.post(deployment, deployment.report(), headers=named))[0] == 202


@pytest.mark.accept("6.C1")
async def test_who_leaves_before_the_end_fails_as_well(ingest: Ingest) -> None:
    unknown = Deployment()
    for _ in range(FAILURES):
        async with begun(ingest, unknown, MALLORY):
            pass

    async def status(address: str) -> int:
        """What a report is answered that is signed, and so is no failure."""
        named = {"X-Forwarded-For": address}
        return (await ingest.post(unknown, unknown.report(), headers=named))[0]

    async def slowed_down() -> bool:
        return await status(MALLORY) == 429

    await eventually(slowed_down, "the address to be refused")
    assert await status(HONEST) == 503
