"""What one deployment or one address may send, and that it takes nothing of what others may."""

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from webhost_contracts import signatures
from webhost_contracts.events import TierChanged
from webhost_telemetry_ingest.rate_limits import PERIOD_S, REPORTS_PER_CALL

from tests.integration.telemetry_ingest.conftest import Deployment, Ingest, until_known
from tests.support.deadline import eventually
from tests.support.harness import in_background, running

CALLS = 20
ROUNDS, IN_A_TURN = 5, 5
FAILURES = 5
TIERS = f"""
[free]
requestsPerMinute = {CALLS}
telemetryDays = 1
logDays = 1

[pro]
requestsPerMinute = {20 * CALLS}
telemetryDays = 1
logDays = 1

[large]
requests = 500
requestsPerMinute = 1000
telemetryDays = 1
logDays = 1

[small]
requests = 5
requestsPerMinute = 100
telemetryDays = 1
logDays = 1
"""


@pytest.fixture
async def ingest(database_url: str, nats_account: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    """Ingest with low limits, behind a proxy."""
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(TIERS)
    async with running(Ingest, database_url, nats_account) as harness:
        harness.service.env |= {
            "WEBHOST_TIERS_FILE": str(tiers),
            "TELEMETRY_FAILURES_PER_MINUTE": str(FAILURES),
            "TRUSTED_PROXIES": "127.0.0.1",
        }
        await harness.service.start()
        yield harness


async def another(ingest: Ingest) -> Deployment:
    deployment = Deployment()
    await ingest.begun(deployment)
    await until_known(ingest, deployment)
    return deployment


def limited(
    answer: tuple[int, Any, dict[str, str]], policy: str, limit: int, window_s: int = 60
) -> None:
    status, body, headers = answer
    assert (status, body["error"]["code"]) == (429, "RATE_LIMITED")
    assert body["error"]["retryable"] is True
    assert int(headers["retry-after"]) >= 1
    assert headers["ratelimit-policy"] == f'"{policy}";q={limit};w={window_s}'
    assert headers["ratelimit"] == f'"{policy}";r=0;t={headers["retry-after"]}'


async def post_all(ingest: Ingest, deployment: Deployment, number: int) -> Counter[int]:
    posts = (ingest.post(deployment, deployment.report()) for _ in range(number))
    return Counter([status for status, _, _ in await asyncio.gather(*posts)])


@pytest.mark.accept("6.C1")
async def test_a_minutes_calls_and_a_burst_are_accepted_at_once_and_a_flood_is_not(
    ingest: Ingest, deployment: Deployment
) -> None:
    assert (await post_all(ingest, deployment, 2 * CALLS))[202] == 2 * CALLS
    statuses = await post_all(ingest, deployment, 5 * CALLS)
    assert set(statuses) == {202, 429}
    limited(await ingest.post(deployment, deployment.report()), "reports", REPORTS_PER_CALL * CALLS)
    # A bad signature is told apart from nothing, as ever.
    assert (await ingest.post(deployment, deployment.report(), key=b"x" * 32))[0] == 401


@pytest.mark.accept("6.C1")
async def test_a_user_with_many_deployments_has_twice_one_deployment_s(ingest: Ingest) -> None:
    of_one = REPORTS_PER_CALL * CALLS
    first = Deployment()
    theirs = [first, *(Deployment(user_id=first.user_id) for _ in range(2))]
    for deployment in theirs:
        await ingest.begun(deployment)
        await until_known(ingest, deployment)
    # A stolen key leaves half to the user's other deployments.
    await post_all(ingest, first, 2 * of_one)
    assert (await post_all(ingest, theirs[1], of_one // 2))[202] == of_one // 2
    posts = (ingest.post(theirs[2], theirs[2].report()) for _ in range(of_one - 10))
    refused = [answer for answer in await asyncio.gather(*posts) if answer[0] == 429]
    assert refused
    for answer in refused:
        limited(answer, "reports-of-user", 2 * of_one)


@pytest.mark.accept("6.C1")
async def test_a_higher_tier_may_report_more(ingest: Ingest, deployment: Deployment) -> None:
    await post_all(ingest, deployment, 5 * CALLS)
    assert (await ingest.post(deployment, deployment.report()))[0] == 429
    changed = TierChanged(tier="pro", previous_tier="free", source="test")
    await ingest.given(deployment.user_id, deployment.user_id, changed)

    async def more() -> bool:
        policies = [
            (await ingest.post(deployment, deployment.report()))[2].get("ratelimit-policy")
            for _ in range(5)
        ]
        return f'"reports";q={20 * REPORTS_PER_CALL * CALLS};w=60' in policies

    await eventually(more, "the limit of the new tier")
    await ingest.until_scalar(
        f"SELECT tier FROM accounts WHERE user_id = '{deployment.user_id}'", "pro", "the tier's row"
    )
    # Learnt from the rows as well, after a start.
    await ingest.service.stop()
    await ingest.service.start()
    assert (await post_all(ingest, deployment, 5 * CALLS))[202] == 5 * CALLS


@pytest.mark.accept("6.C1")
async def test_a_stolen_key_cannot_fill_the_stream(ingest: Ingest, deployment: Deployment) -> None:
    changed = TierChanged(tier="small", previous_tier="free", source="test")
    await ingest.given(deployment.user_id, deployment.user_id, changed)
    await ingest.until_scalar(
        f"SELECT tier FROM accounts WHERE user_id = '{deployment.user_id}'",
        "small",
        "the tier's row",
    )
    await ingest.service.stop()
    await ingest.service.start()
    of_one = REPORTS_PER_CALL * 5
    assert await post_all(ingest, deployment, 2 * of_one) == {202: of_one, 429: of_one}
    refused = await ingest.post(deployment, deployment.report())
    limited(refused, "reports-of-period", of_one, PERIOD_S)
    # The user's other deployments have as much again.
    others = [Deployment(user_id=deployment.user_id) for _ in range(2)]
    for other in others:
        await ingest.begun(other)
        await until_known(ingest, other)
    assert (await post_all(ingest, others[0], of_one - 5))[202] == of_one - 5
    assert set(await post_all(ingest, others[1], 10)) == {202, 429}
    refused = await ingest.post(others[1], others[1].report())
    limited(refused, "reports-of-users-period", 2 * of_one, PERIOD_S)
    # Whoever changes to another tier has all that it allows, at once.
    changed = TierChanged(tier="large", previous_tier="small", source="test")
    await ingest.given(deployment.user_id, deployment.user_id, changed, version=2)

    async def accepted() -> bool:
        return (await ingest.post(deployment, deployment.report()))[0] == 202

    await eventually(accepted, "the limit of the new tier")
    assert (await post_all(ingest, deployment, of_one))[202] == of_one


@pytest.mark.accept("6.C1")
async def test_an_address_that_fails_is_refused_before_its_body_is_read(
    ingest: Ingest, deployment: Deployment
) -> None:
    other = await another(ingest)
    mallory, honest = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
    unknown = Deployment()

    async def fails(whose: Deployment, headers: dict[str, str]) -> Any:
        return await ingest.post(whose, whose.report(), key=b"x" * 32, headers=headers)

    for _ in range(FAILURES):
        assert (await fails(unknown, mallory))[0] == 401
    limited(await fails(unknown, mallory), "failures", FAILURES)
    limited(await fails(Deployment(), mallory), "failures", FAILURES)
    assert (await fails(unknown, honest))[0] == 401
    # At an address that many share, others' failures are not a known deployment's.
    assert (await ingest.post(deployment, deployment.report(), headers=mallory))[0] == 202

    for _ in range(FAILURES):
        assert (await fails(deployment, mallory))[0] == 401
    limited(await fails(deployment, mallory), "failures", FAILURES)
    assert (await ingest.post(deployment, deployment.report(), headers=honest))[0] == 202
    assert (await ingest.post(other, other.report(), headers=mallory))[0] == 202

    host, _, port = ingest.service.env["LISTEN"].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/telemetry/report HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n"
        b"X-Forwarded-For: 192.0.2.1\r\n\r\n"
    )
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.accept("6.C1")
@pytest.mark.parametrize("sent", [{}, {signatures.TELEMETRY_SIGNATURE_HEADER: "v1=00"}], ids=str)
async def test_reports_without_credentials_are_failures_too(
    ingest: Ingest, sent: dict[str, str]
) -> None:
    url = f"{ingest.service.url}/v1/telemetry/report"
    statuses: list[int] = []
    for _ in range(FAILURES + 1):
        headers = sent | {"X-Forwarded-For": "192.0.2.3"}
        async with ingest.http.post(url, data=b"{}", headers=headers) as answer:
            statuses.append(answer.status)
    assert statuses == [401] * FAILURES + [429]


@pytest.mark.long
@pytest.mark.quiet
@pytest.mark.accept("6.C1")
async def test_a_flood_with_a_stolen_key_does_not_slow_anothers_reports(
    ingest: Ingest, deployment: Deployment
) -> None:
    victim = await another(ingest)
    flooded: Counter[int] = Counter()

    async def measured() -> list[float]:
        """Report as an honest Worker does; return the answers' times in ms."""
        times: list[float] = []
        for _ in range(IN_A_TURN):
            began = perf_counter()
            assert (await ingest.post(victim, victim.report()))[0] == 202
            times.append((perf_counter() - began) * 1000)
            await asyncio.sleep(0.02)
        return times

    loose = asyncio.Event()

    async def flood() -> None:
        while await loose.wait():
            status, _, _ = await ingest.post(deployment, deployment.report())
            flooded[status] += 1
            await asyncio.sleep(0.01)

    async def refused() -> bool:
        return flooded[429] > 0

    alone: list[float] = []
    beside: list[float] = []
    async with in_background(*(flood() for _ in range(4))):
        loose.set()
        await eventually(refused, "the flood to be refused")
        flooded.clear()
        # In turns, since the machine has other work too.
        for _ in range(ROUNDS):
            loose.clear()
            alone += await measured()
            loose.set()
            beside += await measured()
    alone_ms, beside_ms = statistics.median(alone), statistics.median(beside)
    print(f"median {alone_ms:.1f} ms alone, {beside_ms:.1f} ms beside a flood: {dict(flooded)}")
    assert flooded[429] > 10 * flooded[202]
    assert beside_ms <= 1.5 * alone_ms + 2
