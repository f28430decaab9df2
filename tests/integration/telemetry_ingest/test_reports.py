"""What a Worker may report, over HTTP and onto the real stream."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from webhost_contracts import ids, signatures, subjects
from webhost_contracts.events import DeploymentTornDown
from webhost_kit.clock import now_ms

from tests.integration.telemetry_ingest.conftest import Deployment, Ingest, until_known
from tests.support.deadline import eventually
from tests.support.infra import Nats


async def test_an_accepted_report_is_on_the_stream(ingest: Ingest, deployment: Deployment) -> None:
    at = now_ms()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = deployment.report(eventId="inv_1", timestampMs=at, provider={"model": "m"})
    status, answer, headers = await ingest.post(
        deployment, body, headers={"X-Request-Id": "req_mine", "traceparent": trace}
    )
    assert (status, answer) == (202, {"accepted": True, "eventId": "inv_1", "deduped": False})
    assert headers["x-request-id"] == "req_mine"
    assert not [name for name in headers if name.startswith("access-control")]

    [(subject, stored, fact)] = await ingest.accepted()
    partition = subjects.partition_of(deployment.user_id)
    assert subject == subjects.usage_packets(partition, subjects.TELEMETRY_INGEST)
    assert stored.user_id == deployment.user_id
    assert (stored.request_id, stored.traceparent) == ("req_mine", trace)
    assert ids.has_prefix(stored.event_id, ids.EVENT)
    assert (fact.deployment_id, fact.dedupe_key) == (deployment.deployment_id, "event:inv_1")
    assert (fact.timestamp_ms, fact.llm_tokens, fact.provider) == (at, 10, {"model": "m"})


@pytest.mark.accept("3")
async def test_forged_and_foreign_reports_never_reach_the_stream(
    ingest: Ingest, deployment: Deployment
) -> None:
    other = Deployment()
    await ingest.begun(other)
    await until_known(ingest, other)
    good = deployment.report()
    tampered = good.replace(b'"llmTokens":10', b'"llmTokens":11')
    assert tampered != good

    async def refused(body: bytes, key: bytes | None = None, **headers: str) -> tuple[int, Any]:
        status, answer, _ = await ingest.post(
            deployment, body, key=key, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        return status, answer["error"]

    signature = signatures.telemetry_signature
    for status, error in (
        await refused(tampered, X_Telemetry_Signature=signature(deployment.key, good)),
        await refused(good, key=other.key),
        await refused(good, X_Telemetry_Deployment_Id=other.deployment_id),
        await refused(good, X_Telemetry_Signature=""),
    ):
        assert (status, error["code"]) == (401, "UNAUTHENTICATED")
    for changes in (
        {"userId": other.user_id},
        {"agentId": other.agent_id},
        {"deploymentId": other.deployment_id},
        {"runtimeProvider": "agentcore"},
    ):
        status, error = await refused(deployment.report(**changes))
        assert (status, error["code"]) == (403, "UNAUTHORIZED")
        assert error["details"] == {"reason": "attribution_mismatch"}
    assert await ingest.accepted() == []


@pytest.mark.accept("3")
async def test_a_replay_is_recognised(ingest: Ingest, deployment: Deployment) -> None:
    body = deployment.report(eventId="inv_1")
    answers = [(await ingest.post(deployment, body))[1] for _ in range(3)]
    assert [answer["deduped"] for answer in answers] == [False, True, True]
    assert {answer["eventId"] for answer in answers} == {"inv_1"}
    assert len(await ingest.accepted()) == 1


async def test_a_deployment_is_unknown_until_its_facts_arrive(ingest: Ingest) -> None:
    deployment = Deployment()
    body = deployment.report()
    status, answer, headers = await ingest.post(deployment, body)
    assert (status, answer["error"]["code"]) == (503, "UNAVAILABLE")
    assert answer["error"]["retryable"] is True
    assert int(headers["retry-after"]) > 0
    # It may never be known; whoever has its key pages nobody.
    counted = ingest.service.counted
    assert await counted("webhost_http_problems_total", fault="others") == 1
    assert await counted("webhost_http_problems_total", fault="ours") == 0
    assert (await ingest.post(deployment, body, key=b"x" * 32))[0] == 401

    await ingest.begun(deployment)

    async def taken() -> bool:
        return (await ingest.post(deployment, body))[0] == 202

    await eventually(taken, "the report to be accepted")
    assert len(await ingest.accepted()) == 1


async def test_reports_go_to_one_address_only(ingest: Ingest, deployment: Deployment) -> None:
    url, client = ingest.service.url, ingest.http
    for method, path, status, code in (
        ("GET", "/v1/telemetry/report", 405, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", "/v1/telemetry/report", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/telemetry/report/", 404, "NOT_FOUND"),
        ("POST", "/v1/telemetry/report", 401, "UNAUTHENTICATED"),
    ):
        async with client.request(method, url + path) as answer:
            error = msgspec.json.decode(await answer.read())["error"]
            assert (answer.status, error["code"]) == (status, code)
            assert error["requestId"] == answer.headers["X-Request-Id"]
    status, answer, _ = await ingest.post(deployment, b"x" * (64 * 1024 + 1))
    assert (status, answer["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert (await ingest.post(deployment, b"x" * 64 * 1024))[0] == 400


async def test_concurrent_reports_share_publishes(ingest: Ingest, deployment: Deployment) -> None:
    bodies = [deployment.report() for _ in range(200)]
    began = time.perf_counter()
    answers = await asyncio.gather(*(ingest.post(deployment, body) for body in bodies))
    print(f"200 concurrent reports: {200 / (time.perf_counter() - began):.0f}/s")
    assert [status for status, _, _ in answers] == [202] * 200
    stored = [fact.dedupe_key for _, _, fact in await ingest.accepted()]
    assert sorted(stored) == sorted(f"event:{answer['eventId']}" for _, answer, _ in answers)
    async with ingest.http.get(f"{ingest.service.ops_url}/metrics") as metrics:
        text = await metrics.text()
    [batches] = [
        float(line.split()[1])
        for line in text.splitlines()
        if line.startswith("webhost_ingest_batch_reports_count")
    ]
    assert batches < 100


@pytest.mark.accept("6.durable")
async def test_nothing_acknowledged_is_lost_when_the_bus_dies(
    ingest: Ingest, deployment: Deployment, nats: Nats
) -> None:
    acknowledged: set[str] = set()
    refused = 0
    ending = asyncio.Event()

    async def worker() -> None:
        nonlocal refused
        while not ending.is_set():
            # As a Worker does: the same report again until it is taken.
            report = deployment.report()
            while (posted := await ingest.post(deployment, report))[0] != 202:
                assert posted[0] == 503
                refused += 1
                await asyncio.sleep(0.01)
            acknowledged.add(f"event:{posted[1]['eventId']}")

    async def some(number: int) -> None:
        async def there() -> bool:
            return len(acknowledged) >= number

        await eventually(there, f"{number} acknowledged reports", seconds=20)

    async with asyncio.TaskGroup() as workers:
        for _ in range(8):
            workers.create_task(worker())
        await some(50)
        nats.kill()
        try:

            async def refusing() -> bool:
                return refused > 8

            await eventually(refusing, "reports to be refused")
        finally:
            nats.start()
        await some(len(acknowledged) + 50)
        ending.set()
    assert acknowledged <= {fact.dedupe_key for _, _, fact in await ingest.accepted()}


async def test_the_memory_survives_a_kill(ingest: Ingest, deployment: Deployment) -> None:
    await ingest.service.kill()
    await ingest.service.start()
    assert (await ingest.post(deployment, deployment.report()))[0] == 202
    assert await ingest.service.stop() == 0


@pytest.mark.accept("A9")
async def test_ingest_forgets_by_itself(ingest: Ingest, deployment: Deployment) -> None:
    """A deployment that ended long ago is as unknown as one that never was."""
    torn_down = DeploymentTornDown(agent_id=deployment.agent_id)
    await ingest.given(deployment.user_id, deployment.deployment_id, torn_down, version=2)
    ended = "SELECT count(*) FROM deployments WHERE ended_at_ms IS NOT NULL"
    await ingest.until_scalar(ended, 1, "its end to be folded")
    await ingest.execute("UPDATE deployments SET ended_at_ms = 1")
    await ingest.service.kill()
    await ingest.service.start()
    await ingest.until_scalar("SELECT count(*) FROM deployments", 0, "it to be forgotten")
    assert (await ingest.post(deployment, deployment.report()))[0] == 503
