"""Strangers cannot fill the log: what they break off, or what is no request, writes nothing."""

import asyncio
from pathlib import Path

from tests.integration.api.harness import Harness

TIMES = 20


async def sent(harness: Harness, data: bytes) -> None:
    """Send this, and go away."""
    host, _, port = harness.service.env["LISTEN"].rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.close()
    await writer.wait_closed()


async def test_what_strangers_break_off_is_not_logged(own_harness: Harness, tmp_path: Path) -> None:
    harness = own_harness
    await harness.service.stop()
    harness.service.log = tmp_path / "log"
    await harness.start(LOG_LEVEL="info")
    token = harness.issuer.token("somebody")
    await harness.with_token(token).get("/v1/me")
    before = harness.service.log.read_text("utf-8")
    long = "x" * 8_000
    half = f"Content-Length: 1000\r\nAuthorization: Bearer {token}\r\n\r\n{{"
    for number in range(TIMES):
        for request in (
            f"POST /v1/agents HTTP/1.1\r\nHost: a\r\n{half}",
            f"PATCH /v1/agents/{long} HTTP/1.1\r\nHost: a\r\n{half}",
            "POST /v1/billing/webhook HTTP/1.1\r\nHost: a\r\nX-Signature: a\r\n"
            "Content-Length: 9\r\n\r\n{",
            f"{long[:500]} no request {number}\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ):
            await sent(harness, request.encode())
    await harness.with_token(token).get("/v1/me")
    written = harness.service.log.read_text("utf-8").removeprefix(before)
    assert len(written) < 2_000, written[:2_000]
    assert "went away" not in written
    counted = harness.service.counted
    gone = await counted("webhost_http_request_duration_seconds_count", status="gone")
    assert gone == 3 * TIMES
    # Nor does it page anybody.
    assert await counted("webhost_http_problems_total", fault="ours") == 0
