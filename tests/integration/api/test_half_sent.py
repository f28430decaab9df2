"""Deploys whose bodies do not come: whom they hold up."""

import pytest

from tests.integration.api.harness import Harness
from tests.support.slow import first_answer, slow_clients

CLIENTS = 100
BODY_BYTES = 1024 * 1024


@pytest.mark.accept("6.B5")
@pytest.mark.parametrize("size", [f"Content-Length: {BODY_BYTES}", "Transfer-Encoding: chunked"])
async def test_whoever_has_many_half_sent_bodies_is_refused_more_and_nobody_else(
    harness: Harness, size: str
) -> None:
    """A body of unheard-of size counts as the largest."""
    user, other = harness.user(), harness.user()
    agent, others = await user.create(), await other.create()
    head = (
        f"POST /v1/agents/{agent['id']}/deploy HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {user.http.headers['Authorization']}\r\n{size}\r\n\r\n"
    )
    port = int(harness.service.url.rpartition(":")[2])
    async with slow_clients(port, [head.encode() + b"1"] * CLIENTS) as clients:
        assert (await first_answer(clients)).startswith(b"HTTP/1.1 503")
        await other.deploy(others["id"], moduleCode=f"// {'y' * (BODY_BYTES // 2)}")
