"""A report whose publish fails leaves nothing behind that would swallow its retry."""

import pytest
from webhost_contracts import subjects
from webhost_contracts.periods import period_key
from webhost_contracts.usage_rpc import UsageReply, UsageRequest
from webhost_kit.bus import rpc
from webhost_kit.clock import now_ms

from tests.integration.telemetry_ingest.conftest import Deployment, Ingest
from tests.support.deadline import eventually
from tests.support.infra import Postgres
from tests.support.streams import refusing


@pytest.mark.accept("8.claimed")
async def test_a_report_that_was_not_stored_is_counted_by_its_retry_and_once(
    ingest: Ingest, deployment: Deployment, postgres_server: Postgres
) -> None:
    at_ms = now_ms()
    body = deployment.report(eventId="inv_1", timestampMs=at_ms, llmTokens=7)

    async def tokens() -> int:
        request = UsageRequest(user_id=deployment.user_id, period_key=period_key(at_ms))
        return (
            await rpc.call(ingest.bus, subjects.RPC_USAGE, request, UsageReply)
        ).usage.llm_tokens

    dsn = postgres_server.create_database()
    async with ingest.process("webhost_billing", DATABASE_URL=dsn):
        async with refusing(ingest.bus, subjects.USAGE):
            for _ in range(2):
                status, answer, _ = await ingest.post(deployment, body)
                assert (status, answer["error"]["code"]) == (503, "UNAVAILABLE")
                assert answer["error"]["retryable"]
        answers = [await ingest.post(deployment, body) for _ in range(3)]
        assert [status for status, _, _ in answers] == [202] * 3
        assert [answer["deduped"] for _, answer, _ in answers] == [False, True, True]
        assert len(await ingest.accepted()) == 1

        async def counted() -> bool:
            return await tokens() > 0

        await eventually(counted, "the report to be counted")
        await ingest.service.kill()
        await ingest.service.start()
        # A process that remembers nothing takes it once more; billing counts it once.
        status, answer, _ = await ingest.post(deployment, body)
        assert (status, answer["deduped"]) == (202, False)
        later = deployment.report(eventId="inv_2", timestampMs=at_ms, llmTokens=1)
        assert (await ingest.post(deployment, later))[0] == 202

        async def later_too() -> bool:
            return await tokens() >= 8

        await eventually(later_too, "the report behind it to be counted")
        assert await tokens() == 8
