"""Calls with an idempotency key: one runs, its repeats get its answer, and none lies in plain."""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from webhost_contracts import ids
from webhost_contracts.events import AgentCreated
from webhost_contracts.periods import period_key
from webhost_contracts.totals import Totals
from webhost_gateway.ledger.idempotency import ANSWERS_KEPT_MS
from webhost_gateway.ledger.recording import MAX_KEPT_BYTES, Kept
from webhost_gateway.model import Claim
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import base64url
from webhost_kit.response_keys import ResponseKeys

from tests.integration.gateway.harness import RESPONSE_KEYS, Agent, Gateway, Harness
from tests.integration.gateway.worker import Call, echo
from tests.support.deadline import eventually

OTHER_KEYS = f"r1:{base64url(b'other' * 6 + b'ok')}"


@dataclass
class Answer:
    """A whole answer, byte for byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def invocation_id(self) -> str | None:
        return self.headers.get("X-Webhost-Invocation-Id")

    @property
    def error(self) -> dict[str, Any]:
        return msgspec.json.decode(self.body)["error"]

    @property
    def reason(self) -> str:
        error = self.error
        assert (self.status, error["code"]) == (409, "CONFLICT")
        return error["details"]["reason"]


async def call(
    harness: Harness,
    gateway: Gateway,
    agent: Agent,
    key: str | None,
    prompt: str = "hi",
    *,
    stream: bool = False,
) -> Answer:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"input": {"prompt": prompt}}
    async with harness.post(gateway, agent, body, stream=stream, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


async def until_recorded(harness: Harness, invocation_id: str | None) -> None:
    async def recorded() -> bool:
        query = "SELECT 1 FROM invocations WHERE id = :id AND finished_at_ms IS NOT NULL"
        return await harness.scalar(query, id=invocation_id) is not None

    await eventually(recorded, "the outcome to be on record")


async def claims(harness: Harness, agent: Agent) -> list[dict[str, Any]]:
    return await harness.rows("SELECT * FROM idempotency WHERE user_id = :user", user=agent.user_id)


async def ready_agent(harness: Harness, gateway: Gateway, tier: str | None = None) -> Agent:
    agent = await harness.agent(tier)
    await harness.until_answers(gateway, agent)
    harness.worker.calls.clear()
    return agent


@asynccontextmanager
async def held_up(harness: Harness) -> AsyncIterator[asyncio.Event]:
    """The Worker has a call and does not answer it before the event."""
    answers, called = asyncio.Event(), asyncio.Event()

    async def behave(arrived: Call) -> None:
        called.set()
        await answers.wait()
        await echo(arrived)

    harness.worker.behaviour = behave
    try:
        yield answers
    finally:
        answers.set()
        harness.worker.behaviour = echo


@pytest.mark.accept("7.7.repeat")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_gets_the_first_answer_to_the_byte_and_counts_once(
    harness: Harness, gateway: Gateway, stream: bool
) -> None:
    agent = await ready_agent(harness, gateway)
    first = await call(harness, gateway, agent, "k1", stream=stream)
    await until_recorded(harness, first.invocation_id)
    again = await call(harness, gateway, agent, "k1", stream=stream)
    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body
    assert b"said" in again.body
    assert again.invocation_id == first.invocation_id is not None
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert again.headers.get("X-Accel-Buffering") == first.headers.get("X-Accel-Buffering")
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    other = await call(harness, gateway, agent, "k2", stream=stream)
    assert other.invocation_id != first.invocation_id
    assert [c.body["invocationId"] for c in harness.worker.calls] == [
        first.invocation_id,
        other.invocation_id,
    ]
    assert len(await harness.until_facts(agent, 3)) == 3
    [quota] = await harness.rows("SELECT * FROM quotas WHERE user_id = :u", u=agent.user_id)
    assert (quota["requests"], quota["in_flight"]) == (3, 0)


@pytest.mark.accept("7.7.repeat")
async def test_another_request_under_the_key_is_a_conflict(
    harness: Harness, gateway: Gateway
) -> None:
    """Another body, or the other endpoint; it does not say which call the key is of."""
    agent = await ready_agent(harness, gateway)
    first = await call(harness, gateway, agent, "k")
    await until_recorded(harness, first.invocation_id)
    for prompt, stream in (("other", False), ("hi", True)):
        refused = await call(harness, gateway, agent, "k", prompt, stream=stream)
        assert refused.reason == "key_reused"
        assert refused.error["retryable"] is False
        assert refused.invocation_id is None
    assert len(harness.worker.calls) == 1


@pytest.mark.accept("7.7.repeat")
async def test_a_key_is_a_users_and_an_agents(harness: Harness, gateway: Gateway) -> None:
    mine, theirs = await ready_agent(harness, gateway), await ready_agent(harness, gateway)
    second = Agent(mine.user_id, new_id(ids.AGENT, now_ms()), "", mine.token)
    await harness.tell(second, AgentCreated(name="b"))
    await harness.deploy(second, new_id(ids.DEPLOYMENT, now_ms()))
    await harness.point(second, second.deployment_id)
    await harness.until_answers(gateway, second)
    harness.worker.calls.clear()
    answers = [await call(harness, gateway, agent, "k") for agent in (mine, theirs, second)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert len({answer.invocation_id for answer in answers}) == 3
    assert len(harness.worker.calls) == 3


@pytest.mark.accept("7.7.repeat")
async def test_while_the_first_runs_a_repeat_may_be_tried_again(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    async with held_up(harness) as answers:
        first = asyncio.create_task(call(harness, gateway, agent, "k"))

        async def claimed() -> bool:
            return len(await claims(harness, agent)) == 1

        await eventually(claimed, "the key to be claimed")
        repeat = await call(harness, gateway, agent, "k")
        assert repeat.reason == "running"
        assert repeat.error["retryable"] is True
        assert repeat.headers["Retry-After"] == "1"
        answers.set()
        answered = await first
    assert repeat.invocation_id == answered.invocation_id == repeat.error["details"]["invocationId"]
    await until_recorded(harness, answered.invocation_id)
    assert (await call(harness, gateway, agent, "k")).body == answered.body
    assert len(harness.worker.calls) == 1


@pytest.mark.accept("7.7.failures")
@pytest.mark.parametrize("stream", [False, True])
async def test_what_reached_the_runtime_is_repeated_as_it_was(
    harness: Harness, gateway: Gateway, stream: bool
) -> None:
    """Also a failure, which the same request would only meet again: it is not retryable."""
    agent = await ready_agent(harness, gateway)

    async def failing(arrived: Call) -> None:
        await arrived.answer({"error": {"code": "X", "message": "m", "retryable": True}}, 503)

    async def breaking_off(arrived: Call) -> None:
        await arrived.meta()
        await arrived.event("delta", {"text": "half"})
        await arrived.write("", more=False)

    behaviours = [(failing, 502), *([(breaking_off, 200)] if stream else [])]
    for number, (behaviour, status) in enumerate(behaviours):
        harness.worker.behaviour = behaviour
        first = await call(harness, gateway, agent, f"k{number}", stream=stream)
        assert first.status == status
        assert b'"retryable":false' in first.body
        harness.worker.behaviour = echo
        await until_recorded(harness, first.invocation_id)
        again = await call(harness, gateway, agent, f"k{number}", stream=stream)
        assert (again.status, again.body) == (first.status, first.body)
        assert again.invocation_id == first.invocation_id
    assert len(harness.worker.calls) == len(behaviours)


@pytest.mark.accept("7.7.failures")
async def test_a_caller_that_left_its_stream_leaves_an_unknown_outcome(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)

    async def endless(arrived: Call) -> None:
        await arrived.meta()
        await arrived.gone()

    harness.worker.behaviour = endless
    headers = {"Idempotency-Key": "k"}
    async with harness.post(gateway, agent, stream=True, headers=headers) as response:
        await response.content.readline()
        invocation_id = response.headers["X-Webhost-Invocation-Id"]
    await until_recorded(harness, invocation_id)
    answer = await call(harness, gateway, agent, "k", stream=True)
    assert answer.reason == "outcome_unknown"
    assert answer.error["retryable"] is False
    assert answer.invocation_id == invocation_id
    assert len(harness.worker.calls) == 1


@pytest.mark.accept("7.7.claims")
async def test_a_refused_call_claims_nothing_and_a_spent_quota_refuses_no_repeat(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway, "small")
    first = await call(harness, gateway, agent, "k")
    for _ in range(18):
        assert (await call(harness, gateway, agent, None)).status == 200
    refused = await call(harness, gateway, agent, "late")
    assert (refused.status, refused.error["details"]["limitType"]) == (402, "requests")
    assert refused.invocation_id is None
    assert [claim["key"] for claim in await claims(harness, agent)] == ["k"]
    again = await call(harness, gateway, agent, "k")
    assert (again.status, again.body) == (200, first.body)
    assert len(harness.worker.calls) == 19


@pytest.mark.accept("7.7.claims")
async def test_a_spent_budget_refuses_no_repeat(harness: Harness, gateway: Gateway) -> None:
    agent = await ready_agent(harness, gateway)
    first = await call(harness, gateway, agent, "k")
    await until_recorded(harness, first.invocation_id)
    spent = Totals(tokens=100, compute_ms=0, generation=1, sequence=9)
    await harness.charge(agent, spent, period_key(now_ms()))
    await harness.until_answers(gateway, agent, 402)
    again = await call(harness, gateway, agent, "k")
    assert (again.status, again.body) == (200, first.body)
    refused = await call(harness, gateway, agent, "new")
    assert (refused.status, refused.error["details"]["limitType"]) == (402, "tokens")


@pytest.mark.accept("7.7.claims")
async def test_an_admission_that_cannot_answer_refuses_no_repeat(
    harness: Harness, gateway: Gateway
) -> None:
    """What admits waits for the user's row, until it is given up; the ledger is read aside."""
    agent = await ready_agent(harness, gateway)
    first = await call(harness, gateway, agent, "k")
    await until_recorded(harness, first.invocation_id)
    async with harness.database.transaction() as holder:
        lock = "SELECT FROM quotas WHERE user_id = :user FOR UPDATE"
        await holder.execute(sa.text(lock), {"user": agent.user_id})
        again, new = await asyncio.gather(
            *(call(harness, gateway, agent, key) for key in ("k", "new"))
        )
    assert (new.status, new.error["code"]) == (503, "UNAVAILABLE")
    assert (again.status, again.body) == (200, first.body)
    assert len(harness.worker.calls) == 1


@pytest.mark.accept("7.7.kept")
async def test_an_answer_is_kept_for_a_day_and_up_to_its_bound(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    large = "x" * (MAX_KEPT_BYTES - 300)
    kept = await call(harness, gateway, agent, "kept", large)
    too_large = await call(harness, gateway, agent, "too-large", "x" * MAX_KEPT_BYTES)
    assert (kept.status, too_large.status) == (200, 200)
    for answer in (kept, too_large):
        await until_recorded(harness, answer.invocation_id)
    assert (await call(harness, gateway, agent, "kept", large)).body == kept.body
    await harness.execute(
        "UPDATE idempotency SET finished_at_ms = finished_at_ms - :day WHERE invocation_id = :id",
        day=ANSWERS_KEPT_MS + 1000,
        id=kept.invocation_id,
    )
    for key, prompt, first in (
        ("kept", large, kept),
        ("too-large", "x" * MAX_KEPT_BYTES, too_large),
    ):
        repeat = await call(harness, gateway, agent, key, prompt)
        assert repeat.reason == "already_done"
        assert repeat.error["retryable"] is False
        assert repeat.error["details"]["invocationId"] == first.invocation_id
        assert repeat.invocation_id == first.invocation_id
    assert len(harness.worker.calls) == 2


@pytest.mark.accept("7.4.ledger")
async def test_the_ledger_holds_what_it_should_and_none_of_it_in_plain(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    canary = f"canary-{secrets.token_hex(8)}"
    first = await call(harness, gateway, agent, "k", canary)
    await until_recorded(harness, first.invocation_id)
    [row] = await claims(harness, agent)
    opened = opened_response(row)
    assert opened == Kept(200, "application/json", first.body)
    assert canary.encode() in opened.body
    request = b"invoke\n" + msgspec.json.encode({"input": {"prompt": canary}})
    keys, others = (ResponseKeys.parse(text) for text in (RESPONSE_KEYS, OTHER_KEYS))
    assert row["fingerprint"].hex() == keys.fingerprint(row["key_id"], request)
    assert row["fingerprint"].hex() != others.fingerprint(row["key_id"], request)
    assert row["fingerprint"] != hashlib.sha256(request).digest()
    dump = await table_dump(harness)
    assert "k" in dump
    for form in forms(canary):
        assert form not in dump
    # The same scan finds what is planted on purpose.
    await harness.execute("UPDATE idempotency SET response = :r WHERE key = 'k'", r=opened.body)
    dump = await table_dump(harness)
    assert any(form in dump for form in forms(canary))


@pytest.mark.accept("7.4.ledger")
async def test_an_answer_that_was_tampered_with_or_moved_is_not_given(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await ready_agent(harness, gateway)
    answers = {key: await call(harness, gateway, agent, key) for key in ("a", "b")}
    for answer in answers.values():
        await until_recorded(harness, answer.invocation_id)
    flip = "UPDATE idempotency SET response = set_byte(response, :at, get_byte(response, :at) # 1)"
    for at in (0, 12, 60):
        await harness.execute(f"{flip} WHERE user_id = :u AND key = 'a'", at=at, u=agent.user_id)
        assert (await call(harness, gateway, agent, "a")).reason == "already_done"
        await harness.execute(f"{flip} WHERE user_id = :u AND key = 'a'", at=at, u=agent.user_id)
        assert (await call(harness, gateway, agent, "a")).body == answers["a"].body
    await harness.execute(
        "UPDATE idempotency i SET response = b.response FROM idempotency b"
        " WHERE i.user_id = :u AND b.user_id = :u AND i.key = 'a' AND b.key = 'b'",
        u=agent.user_id,
    )
    assert (await call(harness, gateway, agent, "a")).reason == "already_done"
    assert len(harness.worker.calls) == 2


@pytest.mark.parametrize("key", ["", "with space", "x" * 201, "\u00e9"])
async def test_a_key_of_another_form_is_refused(
    harness: Harness, gateway: Gateway, key: str
) -> None:
    agent = await ready_agent(harness, gateway)
    refused = await call(harness, gateway, agent, key)
    assert refused.status == 400
    assert refused.error["details"]["issues"][0]["path"] == ["Idempotency-Key"]
    assert harness.worker.calls == []


async def table_dump(harness: Harness) -> str:
    """Every row of the ledger and of the calls as text, as a dump has them: bytes in hex."""
    rows = [
        row["said"]
        for table in ("idempotency", "invocations", "usage_outbox")
        for row in await harness.rows(f"SELECT t::text AS said FROM {table} t")
    ]
    return "\n".join(rows)


def forms(text: str) -> list[str]:
    """How a dump may show it; base64 at each of its three alignments."""
    shifted = [base64.b64encode(b"x" * n + text.encode())[4:-4].decode() for n in range(3)]
    return [text, text.encode().hex(), *shifted]


def opened_response(row: dict[str, Any]) -> Kept:
    """What a row's answer says, to whoever has the key."""
    names = ("invocation_id", "user_id", "agent_id", "kind", "key", "key_id")
    claim = Claim(*(row[name] for name in names), row["fingerprint"].hex(), row["created_at_ms"])
    keys = ResponseKeys.parse(RESPONSE_KEYS)
    opened = keys.open(claim.key_id, claim.invocation_id, row["response"], claim.binding)
    return msgspec.msgpack.decode(opened, type=Kept)
