"""What a caller is told when the data plane fails, and what is stated of it."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest

from tests.integration.gateway.harness import Gateway, Harness
from tests.integration.gateway.worker import Behaviour, Call
from tests.support.deadline import eventually

GOOD = {"protocol": "invoke/v1", "traceId": "t", "sessionId": "s", "output": {"text": "a"}}

TOO_DEEP = b'{"error":' + b"[" * 2000 + b"]" * 2000 + b"}"


def answering(body: Any, status: int = 200) -> Behaviour:
    async def behave(call: Call) -> None:
        if isinstance(body, bytes):
            await call.start(status, "text/html")
            await call.write(body, more=False)
        else:
            await call.answer(body, status)

    return behave


def envelope(code: str, *, retryable: bool) -> dict[str, Any]:
    return {"error": {"code": code, "message": "m", "retryable": retryable, "details": {}}}


async def breaking_off(call: Call) -> None:
    await call.start()
    await call.write(b'{"protocol":')
    raise ConnectionError("the Worker is gone")


async def silent(call: Call) -> None:
    await call.gone()


async def endless(call: Call) -> None:
    await call.start()
    gone = asyncio.create_task(call.gone())
    while not gone.done():
        await call.write(" ")
        await asyncio.wait({gone}, timeout=0.05)


async def huge(call: Call) -> None:
    await call.start()
    for _ in range(65):
        await call.write(b"x" * 64 * 1024)
    await call.write("", more=False)


async def failures_of(gateway: Gateway) -> tuple[float, float]:
    """How many calls failed at their Worker, by our fault and by others'."""
    name = "webhost_gateway_worker_failures_total"
    return await gateway.counted(name, fault="ours"), await gateway.counted(name, fault="others")


@pytest.mark.accept("5.failures")
@pytest.mark.parametrize(
    ("behaviour", "status", "failure", "upstream_status", "retryable"),
    [
        (
            answering(envelope("RUNTIME_ERROR", retryable=False), 500),
            502,
            "upstream_status",
            500,
            False,
        ),
        (
            answering(envelope("UNAVAILABLE", retryable=True), 503),
            502,
            "upstream_status",
            503,
            True,
        ),
        (
            answering(envelope("UNAUTHENTICATED", retryable=False), 401),
            502,
            "upstream_status",
            401,
            False,
        ),
        (answering(b"<html>522</html>", 522), 502, "upstream_status", 522, True),
        (answering(b"", 302), 502, "upstream_status", 302, False),
        (
            answering(envelope("SESSION_EXPIRED", retryable=False), 410),
            502,
            "session_expired",
            410,
            False,
        ),
        (answering(b"not json"), 502, "invalid_response", 200, False),
        (answering(GOOD | {"protocol": "invoke/v2"}), 502, "invalid_response", 200, False),
        (answering(GOOD | {"output": {}}), 502, "invalid_response", 200, False),
        (answering(GOOD | {"usage": {"tokens": -1}}), 502, "invalid_response", 200, False),
        (answering(TOO_DEEP), 502, "invalid_response", 200, False),
        (answering(TOO_DEEP, 500), 502, "upstream_status", 500, True),
        (huge, 502, "invalid_response", 200, False),
        (breaking_off, 502, "network_error", None, True),
        (silent, 504, "timeout", None, True),
        (endless, 504, "timeout", None, True),
    ],
)
async def test_failures_are_told_apart_and_count(
    harness: Harness,
    gateway: Gateway,
    behaviour: Behaviour,
    status: int,
    failure: str,
    upstream_status: int | None,
    retryable: bool,
) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    harness.worker.behaviour = behaviour
    before = await failures_of(gateway)
    for stream in (False, True):
        got, body = await harness.invoke(gateway, agent, stream=stream)
        error = body["error"]
        assert (got, error["code"]) == (status, "RUNTIME_ERROR")
        assert error["details"]["failure"] == failure
        assert error["details"].get("upstreamStatus") == upstream_status
        assert error["details"]["invokeHost"] == "workers.example"
        assert error["retryable"] is retryable
    # What an agent's own code can cause pages nobody.
    ours, others = await failures_of(gateway)
    counted = (ours - before[0], others - before[1])
    assert counted == ((2, 0) if upstream_status == 522 else (0, 2))
    facts = (await harness.until_facts(agent, 3))[1:]
    assert [(f.outcome, f.errors, f.error_class) for f in facts] == [("failed", 1, "runtime")] * 2


async def test_the_snippet_is_short_and_holds_no_secret(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    harness.worker.behaviour = answering(b"key sk-abcdefghijkl " + b"x" * 5000, 500)
    _, body = await harness.invoke(gateway, agent)
    snippet = body["error"]["details"]["upstreamBodySnippet"]
    assert len(snippet) == 500
    assert snippet.startswith("key [redacted] xxx")


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose queue is full: the system drops what would connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(4):
            waits = stack.enter_context(socket.socket())
            waits.setblocking(False)
            waits.connect_ex(full.getsockname())
        yield full.getsockname()[1]


@pytest.mark.accept("5.unsent", "7.7.claims")
@pytest.mark.parametrize(
    ("port", "status", "failure"),
    [(refusing_port, 502, "network_error"), (silent_port, 504, "timeout")],
    ids=["refused", "dropped"],
)
async def test_a_call_that_was_never_sent_is_given_back(
    harness: Harness,
    gateway: Gateway,
    port: Callable[[], AbstractContextManager[int]],
    status: int,
    failure: str,
) -> None:
    """No connection to the Workers' address is made: no byte was written, nothing is counted."""
    with port() as workers:
        deaf = await harness.start(
            WORKERS_CONNECT_TO=f"127.0.0.1:{workers}", FIRST_BYTE_TIMEOUT_S="0.5"
        )
        agent = await harness.agent()
        body = await harness.until_answers(deaf, agent, status)
        assert body["error"]["details"]["failure"] == failure
        ours, others = await failures_of(deaf)
        assert (ours > 0, others) == (True, 0)
        key = {"Idempotency-Key": "k"}
        assert (await harness.invoke(deaf, agent, headers=key))[0] == status

        async def is_released() -> bool:
            rows = await harness.rows(
                "SELECT * FROM quotas WHERE user_id = :user", user=agent.user_id
            )
            return [(row["requests"], row["in_flight"]) for row in rows] == [(0, 0)]

        await eventually(is_released, "the quota to be released")
        query = "SELECT * FROM invocations WHERE user_id = :user AND finished_at_ms IS NULL"
        assert await harness.rows(query, user=agent.user_id) == []
        assert (
            await harness.rows("SELECT * FROM idempotency WHERE user_id = :u", u=agent.user_id)
            == []
        )
        await harness.until_answers(gateway, agent)
        assert (await harness.invoke(gateway, agent, headers=key))[0] == 200
        assert len(await harness.until_facts(agent, 2)) == 2
        await deaf.stop()
