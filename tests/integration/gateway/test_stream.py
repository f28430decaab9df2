"""Streams: each chunk is forwarded at once, and the end is always explicit."""

import asyncio
from typing import Any

import msgspec
import pytest
from webhost_kit.process.service import GRACE_S

from tests.integration.gateway.harness import Gateway, Harness
from tests.integration.gateway.worker import Call

DEADLINE_S = 5


class Reader:
    """A client that reads event by event, each within a deadline."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.commented = asyncio.Event()

    async def next(self) -> tuple[str, int, Any] | None:
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self._response.content.readline()).decode():
                assert "\r" not in line
                if line.startswith(":"):
                    self.commented.set()
                elif line == "\n" and fields:
                    data = msgspec.json.decode(fields["data"])
                    return fields["event"], int(fields["id"]), data
                elif line != "\n":
                    name, _, value = line.rstrip("\n").partition(": ")
                    fields[name] = value
        return None

    async def rest(self) -> list[tuple[str, int, Any]]:
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


@pytest.mark.accept("5.stream")
async def test_a_whole_stream(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    body = {"input": {"prompt": "a b"}, "sessionId": "ses_1", "traceId": "t1"}
    async with harness.post(gateway, agent, body, stream=True) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert "X-Request-Id" in response.headers
        events = await Reader(response).rest()
    invocation_id = harness.worker.calls[-1].body["invocationId"]
    assert events == [
        (
            "meta",
            1,
            {
                "protocol": "invoke/v1",
                "traceId": "t1",
                "invocationId": invocation_id,
                "agentId": agent.agent_id,
                "deploymentId": agent.deployment_id,
                "sessionId": "ses_1",
            },
        ),
        *[("delta", 2 + i, {"text": t}) for i, t in enumerate(["You", "said:", "a", "b"])],
        ("usage", 6, {"tokens": 3}),
        ("done", 7, {}),
    ]


async def test_no_chunk_waits_for_the_next(harness: Harness, gateway: Gateway) -> None:
    """The Worker writes a chunk only once the client has the one before it."""
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    gate = asyncio.Semaphore(0)

    async def gated(call: Call) -> None:
        await call.meta()
        for number in range(5):
            await gate.acquire()
            await call.event("delta", {"text": str(number)})
        await gate.acquire()
        await call.event("done", {})
        await call.write("", more=False)

    harness.worker.behaviour = gated
    async with harness.post(gateway, agent, stream=True) as response:
        reader = Reader(response)
        names = []
        while (event := await reader.next()) is not None:
            names.append(event[0])
            gate.release()
    assert names == ["meta", *["delta"] * 5, "done"]


async def test_events_cut_anywhere_arrive_whole(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)

    async def dribbling(call: Call) -> None:
        await call.start(kind="text/event-stream; charset=utf-8")
        text = (
            'event: meta\r\ndata: {"sessionId":"s"}\r\n\r\n'
            'event: delta\r\ndata: {"text":"caf\u00e9"}\r\n\r\n'
            "event: done\r\ndata: {}\r\n\r\n"
        ).encode()
        for place in range(len(text)):
            await call.write(text[place : place + 1])
        await call.write("", more=False)

    harness.worker.behaviour = dribbling
    async with harness.post(gateway, agent, stream=True) as response:
        events = await Reader(response).rest()
    assert [name for name, _, _ in events] == ["meta", "delta", "done"]
    assert events[1][2] == {"text": "caf\u00e9"}


@pytest.mark.accept("5.stream")
async def test_what_fails_behind_meta_is_an_error_event(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)

    async def ends_early(call: Call) -> None:
        await call.meta()
        await call.event("delta", {"text": "a"})
        await call.write("", more=False)

    async def reports(call: Call) -> None:
        await call.meta()
        error = {"code": "RUNTIME_ERROR", "message": "m", "retryable": False, "details": {}}
        await call.event("error", {"error": error})
        await call.write("", more=False)

    async def babbles(call: Call) -> None:
        await call.meta()
        await call.write("event: delta\ndata: nonsense\n\n")
        await call.gone()

    async def nests(call: Call) -> None:
        await call.meta()
        await call.write(b'event: delta\ndata: {"a":' + b"[" * 2000 + b"]" * 2000 + b"}\n\n")
        await call.gone()

    async def breaks(call: Call) -> None:
        await call.meta()
        raise ConnectionError("the Worker is gone")

    async def stalls(call: Call) -> None:
        await call.meta()
        await call.gone()

    async def floods(call: Call) -> None:
        await call.meta()
        for _ in range(70):
            await call.event("delta", {"text": "x" * 64 * 1024})
        await call.gone()

    expected = [
        (ends_early, "invalid_response"),
        (reports, "upstream_status"),
        (babbles, "invalid_response"),
        (nests, "invalid_response"),
        (breaks, "network_error"),
        (stalls, "timeout"),
        (floods, "invalid_response"),
    ]
    for behaviour, failure in expected:
        harness.worker.behaviour = behaviour
        async with harness.post(gateway, agent, stream=True) as response:
            assert response.status == 200
            events = await Reader(response).rest()
        assert [name for name, _, _ in events if name != "delta"] == ["meta", "error"]
        error = events[-1][2]["error"]
        assert (error["code"], error["details"]["failure"]) == ("RUNTIME_ERROR", failure)
        assert error["requestId"] == response.headers["X-Request-Id"]
    facts = await harness.until_facts(agent, 1 + len(expected))
    assert [fact.errors for fact in facts[1:]] == [1] * len(expected)


async def test_a_silent_worker_makes_heartbeats(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    go_on = asyncio.Event()

    async def pausing(call: Call) -> None:
        await call.meta()
        await go_on.wait()
        await call.event("done", {})
        await call.write("", more=False)

    harness.worker.behaviour = pausing
    async with harness.post(gateway, agent, stream=True) as response:
        reader = Reader(response)
        reading = asyncio.create_task(reader.rest())
        async with asyncio.timeout(DEADLINE_S):
            await reader.commented.wait()
        go_on.set()
        assert [event[0] for event in await reading] == ["meta", "done"]


@pytest.mark.accept("5.cancel")
async def test_a_client_that_goes_away_cancels_the_call(harness: Harness, gateway: Gateway) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)
    abandoned = asyncio.Queue[str]()

    arrived = asyncio.Event()

    async def before_meta(call: Call) -> None:
        arrived.set()
        await call.gone()
        await abandoned.put("before meta")

    async def behind_meta(call: Call) -> None:
        await call.meta()
        await call.gone()
        await abandoned.put("behind meta")

    harness.worker.behaviour = behind_meta
    async with asyncio.timeout(DEADLINE_S):
        async with harness.post(gateway, agent, stream=True) as response:
            await Reader(response).next()
            response.close()
        assert await abandoned.get() == "behind meta"
    harness.worker.behaviour = before_meta
    asking = asyncio.create_task(harness.invoke(gateway, agent, stream=True))
    async with asyncio.timeout(DEADLINE_S):
        await arrived.wait()
        asking.cancel()
        assert await abandoned.get() == "before meta"
    facts = await harness.until_facts(agent, 3)
    assert [(fact.errors, fact.outcome) for fact in facts] == [(0, "succeeded")] * 3


@pytest.mark.accept("5.emulated")
async def test_a_worker_that_does_not_stream_is_emulated(
    harness: Harness, gateway: Gateway
) -> None:
    agent = await harness.agent()
    await harness.until_answers(gateway, agent)

    async def plain(call: Call) -> None:
        await call.answer(
            {
                "protocol": "invoke/v1",
                "traceId": "t",
                "sessionId": "s",
                "output": {"text": "all at once"},
                "usage": {"tokens": 1, "computeMs": 2},
            }
        )

    harness.worker.behaviour = plain
    async with harness.post(gateway, agent, stream=True) as response:
        events = await Reader(response).rest()
    assert [(name, data) for name, _, data in events[1:]] == [
        ("delta", {"text": "all at once"}),
        ("usage", {"tokens": 1, "computeMs": 2}),
        ("done", {}),
    ]
    assert events[0][2]["sessionId"] == "s"


@pytest.mark.accept("5.stream")
async def test_a_gateway_that_is_asked_to_end_finishes_its_stream(own_harness: Harness) -> None:
    gateway, drain_s = await own_harness.start(DRAIN_S="1"), 1
    agent = await own_harness.agent()
    await own_harness.until_answers(gateway, agent)
    may_end = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.meta()
        await may_end.wait()
        await call.event("delta", {"text": "late"})
        await call.event("done", {})
        await call.write("", more=False)

    own_harness.worker.behaviour = slow
    async with own_harness.post(gateway, agent, stream=True) as response:
        reader = Reader(response)
        assert (await reader.next() or ("",))[0] == "meta"
        ending = asyncio.create_task(gateway.stop())
        # Longer than what a service has by default for requests under way.
        done, _ = await asyncio.wait([ending], timeout=drain_s + GRACE_S + 2)
        assert not done, "the gateway ended before its stream"
        may_end.set()
        assert [name for name, _, _ in await reader.rest()] == ["delta", "done"]
    assert await ending == 0
