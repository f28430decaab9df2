"""A corpus of hostile modules: what a customer's code can do to the platform and its neighbours.

For each module, in both layouts: nothing but our 401 answers an unsigned call, before and after
the module has run; every signed call is reported exactly once, with a right signature and in the
name of its own deployment; no secret of the platform's comes out, nor anything of another agent's;
every call ends in time; and a neighbour answers meanwhile.
"""

import asyncio
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ProviderError
from webhost_kit.keys import base64url

from tests.support.deadline import eventually
from tests.worker.harness import Answer, Harness

MODULES = {
    path.stem: path.read_text()
    for path in sorted((Path(__file__).parent / "hostile").glob("*.mjs"))
}
NEIGHBOUR = """
export default { async invoke(request, { session }) {
  await session.put("mine", "the neighbour's word");
  return "here I am";
} };
"""
REFUSED = {"static_import_of_front"}
"""What does not even start."""
BLOCKING = {"busy_loop", "busy_microtasks", "aborts_isolate"}
"""What takes the processor or the process from its own front, where both are in one process of the
local edge: it is ended, and the call counted by the gateway alone. Cloudflare would end the agent's
isolate."""
FORGING = {"forged_telemetry"}
"""What reports calls itself."""
UNSIGNED = (
    b'{"error":{"code":"UNAUTHENTICATED","message":"A valid signature is required.",'
    b'"retryable":false,"details":{}}}'
)
TIMEOUT_MS = 3_000
LONGEST_S = 8.0
NEIGHBOUR_S = 4.0
LONGEST_MESSAGE = 300
LARGEST_ANSWER = 26 * 1024 * 1024


@pytest.fixture(scope="module")
async def neighbour(harness: Harness) -> tuple[Deployment, str]:
    """An honest agent, and a session of its own."""
    deployment = await harness.deploy(NEIGHBOUR)
    _, answer = await harness.call(deployment, "hello")
    assert answer.status == 200, answer
    return deployment, msgspec.json.decode(answer.body)["sessionId"]


def test_the_corpus_is_there() -> None:
    assert len(MODULES) >= 25


@pytest.mark.accept("6.1")
@pytest.mark.parametrize("name", MODULES)
async def test_a_hostile_module(
    harness: Harness, neighbour: tuple[Deployment, str], name: str
) -> None:
    if name in REFUSED:
        with pytest.raises(ProviderError):
            await harness.deploy(MODULES[name])
        return
    deployment = await harness.deploy(MODULES[name])
    seen: list[bytes] = []
    await unsigned_is_refused(harness, deployment)
    invocations: list[str] = []
    others_session = neighbour[1]
    ended = harness.layout == "account" and name in BLOCKING
    for stream, session_id in ((False, None), (True, None), (False, others_session)):
        text = " ".join(
            (
                harness.address(deployment),
                harness.provider.invoke_url(deployment),
                harness.report_url,
            )
        )
        (invocation_id, answer), _ = await asyncio.gather(
            harness.call(
                deployment, text, stream=stream, session_id=session_id, timeout_ms=TIMEOUT_MS
            ),
            neighbour_answers(harness, neighbour[0]),
        )
        invocations.append(invocation_id)
        seen.append(answer.body + repr(answer.headers).encode())
        is_ours(answer, stream=stream, ended=ended)
        if session_id is not None:
            assert answer.status == 410 or (ended and answer.status == 502), answer
    await unsigned_is_refused(harness, deployment)
    await reported_once(harness, deployment, invocations, ended=ended)
    assert (deployment.id in harness.refused) == (name in FORGING)
    secrets = [harness.telemetry_key(deployment), *harness.master_keys.by_version.values()]
    for said in [*seen, *harness.taken]:
        assert b"LOOT" not in said
        assert b"the neighbour's word" not in said
        for secret in secrets:
            assert secret not in said
            assert base64url(secret).encode() not in said
            assert secret.hex().encode() not in said


async def unsigned_is_refused(harness: Harness, deployment: Deployment) -> None:
    address = harness.address(deployment)
    for url in (address, address.replace("/invoke", "/__webhost/probe")):
        answer = await harness.post(url)
        assert (answer.status, answer.body) == (401, UNSIGNED)


async def neighbour_answers(harness: Harness, neighbour: Deployment) -> None:
    _, answer = await harness.call(neighbour, "hello")
    assert answer.status == 200, answer
    assert msgspec.json.decode(answer.body)["output"] == {"text": "here I am"}
    assert answer.seconds < NEIGHBOUR_S


class Error(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    code: str
    message: str
    retryable: Literal[False]
    details: dict[str, str]
    request_id: str | None = None


class Failure(msgspec.Struct, forbid_unknown_fields=True):
    error: Error


FAILURES = {500: "RUNTIME_ERROR", 410: "SESSION_EXPIRED"}


def is_ours(answer: Answer, *, stream: bool, ended: bool) -> None:
    """Whatever the module did, the answer has the platform's form, and its size."""
    assert answer.seconds < LONGEST_S
    assert len(answer.body) < LARGEST_ANSWER
    assert "Set-Cookie" not in answer.headers
    assert "X-Owned" not in answer.headers
    if answer.status == 200 and stream:
        assert answer.headers["Content-Type"] == "text/event-stream"
        for event in filter(None, answer.body.split(b"\n\n")):
            assert event == b":" or event.startswith(b"event: "), event[:200]
            assert event.count(b"\n") <= 1
    elif answer.status == 200:
        assert msgspec.json.decode(answer.body).keys() == {
            *("protocol", "traceId", "sessionId", "output", "usage")
        }
    elif ended and answer.status == 502:
        # The local edge's own, for a front that was ended with its agent.
        error = msgspec.json.decode(answer.body, type=Failure).error
        assert error.message == "The Worker gave no answer."
    else:
        error = msgspec.json.decode(answer.body, type=Failure).error
        assert error.code == FAILURES[answer.status]
        assert 0 < len(error.message) <= LONGEST_MESSAGE


async def reported_once(
    harness: Harness, deployment: Deployment, invocations: list[str], *, ended: bool
) -> None:
    def its() -> list[str]:
        return [
            report["eventId"]
            for report in harness.reports
            if report["deploymentId"] == deployment.id
        ]

    async def all_there() -> bool:
        return set(its()) >= set(invocations)

    if not ended:
        await eventually(all_there, "the reports")
        assert sorted(its()) == sorted(invocations)
    for report in harness.reports:
        assert 0 <= report["llmTokens"] <= 10**9
        assert 0 <= report["toolCalls"] <= 10**9
        if report["deploymentId"] == deployment.id:
            assert report["userId"] == deployment.user_id
            assert report["agentId"] == deployment.agent_id
