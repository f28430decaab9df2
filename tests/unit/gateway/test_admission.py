"""Whose fault it is that a call was not admitted in time."""

import asyncio

import pytest
from webhost_gateway.ledger import admission
from webhost_gateway.ledger.admission_statement import AdmissionRequest
from webhost_gateway.model import Invocation
from webhost_kit.errors import Unavailable

CALL = Invocation(
    id="inv_1",
    user_id="usr_1",
    agent_id="agt_1",
    deployment_id="dep_1",
    runtime_provider="cloudflare",
    trace_id="t",
    period_key="2026-11",
    admitted_at_ms=1,
)


@pytest.mark.parametrize(("at_limit", "fault"), [(False, "ours"), (True, "others")])
async def test_who_waits_behind_calls_of_its_own_is_refused_for_them(
    *, at_limit: bool, fault: str
) -> None:
    admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    request = AdmissionRequest(CALL, None, None, None)
    waiting = admission._Waiting(request, admitted, None, at_limit=at_limit)
    admission._refuse_late(waiting)
    with pytest.raises(Unavailable) as refused:
        await admitted
    assert refused.value.fault == fault
