"""Rejected reports: which are stated for the user's audit, and that nobody floods it."""

import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.events import ReportRejected
from webhost_kit.clock import now_ms
from webhost_telemetry_ingest.rejections import PER_MINUTE

from tests.integration.telemetry_ingest.conftest import Deployment, Ingest, until_known
from tests.support import facts
from tests.support.deadline import eventually

DAY_MS = 24 * 3600 * 1000


async def rejected(ingest: Ingest, user_id: str) -> list[ReportRejected]:
    """What is stated of this user's, in order."""
    stated = await facts.stored(ingest.bus, subjects.EVENTS, f"evt.{user_id}.report.*")
    return [wire.decode(bytes(each.data), ReportRejected) for each in stated]


async def until_rejected(ingest: Ingest, user_id: str, number: int) -> list[ReportRejected]:
    async def are_stated() -> bool:
        return len(await rejected(ingest, user_id)) >= number

    await eventually(are_stated, f"{number} rejections to be stated")
    return await rejected(ingest, user_id)


@pytest.mark.accept("7.audit.telemetry")
async def test_what_is_rejected_is_stated_for_the_owner(
    ingest: Ingest, deployment: Deployment
) -> None:
    """With the first one, by which it was seen that ingest knows the deployment."""
    other = Deployment()
    told = [
        await ingest.post(deployment, deployment.report(userId=other.user_id)),
        await ingest.post(deployment, deployment.report(llmTokens=-1)),
        await ingest.post(deployment, deployment.report(timestampMs=now_ms() - 40 * DAY_MS)),
    ]
    stated = await until_rejected(ingest, deployment.user_id, 1 + len(told))
    assert [(each.code, each.reason) for each in stated[1:]] == [
        (answer["error"]["code"], answer["error"]["message"]) for _, answer, _ in told
    ]
    assert {(each.agent_id, each.deployment_id) for each in stated} == {
        (deployment.agent_id, deployment.deployment_id)
    }


@pytest.mark.accept("7.audit.telemetry")
async def test_what_cannot_be_attributed_is_not_stated_and_nobody_floods_the_audit(
    ingest: Ingest, deployment: Deployment
) -> None:
    other = Deployment()
    await ingest.begun(other)
    await until_known(ingest, other)
    assert (await ingest.post(deployment, deployment.report(), key=other.key))[0] == 401
    assert (await ingest.post(Deployment(), deployment.report()))[0] == 403
    for _ in range(2 * PER_MINUTE):
        assert (await ingest.post(deployment, b"[]"))[0] == 400
    assert (await ingest.post(other, b"[]"))[0] == 400
    await until_rejected(ingest, other.user_id, 1)
    flooded = await until_rejected(ingest, deployment.user_id, PER_MINUTE)
    assert [each.code for each in flooded] == ["INVALID_REQUEST"] * PER_MINUTE
