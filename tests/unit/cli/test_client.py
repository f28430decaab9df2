"""The API's client against a real HTTP server that answers as a test says."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from webhost_cli.client import Api
from webhost_cli.errors import ApiError, CommandError, ExitCode

from tests.support.serving import serving

Answer = Callable[[Request], Awaitable[Response]]


def unavailable() -> Response:
    error = {
        "code": "UNAVAILABLE",
        "message": "Away.",
        "retryable": True,
        "details": {},
        "requestId": "req_1",
    }
    return JSONResponse({"error": error}, 503, headers={"Retry-After": "0"})


async def with_server(answer: Answer, use: Callable[[Api], Any]) -> Any:
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PATCH"])])
    async with serving(app) as origin:
        with Api(origin, "a-token") as api:
            return await asyncio.to_thread(use, api)


async def test_a_start_is_tried_again_under_the_same_key_and_token() -> None:
    seen: list[tuple[str | None, str | None]] = []

    async def answer(request: Request) -> Response:
        headers = request.headers
        seen.append((headers.get("idempotency-key"), headers.get("authorization")))
        return unavailable() if len(seen) < 3 else JSONResponse({"agent": {}}, 201)

    assert await with_server(answer, lambda api: api.start("/v1/agents", {})) == {"agent": {}}
    assert len(seen) == 3
    assert len(set(seen)) == 1
    key, authorization = seen[0]
    assert key
    assert authorization == "Bearer a-token"


async def test_two_starts_have_two_keys() -> None:
    keys: set[str | None] = set()

    async def answer(request: Request) -> Response:
        keys.add(request.headers.get("idempotency-key"))
        return JSONResponse({})

    await with_server(answer, lambda api: (api.start("/a", {}), api.start("/a", {})))
    assert len(keys) == 2


async def test_what_might_be_done_twice_is_tried_once() -> None:
    calls: list[str | None] = []

    async def answer(request: Request) -> Response:
        calls.append(request.headers.get("idempotency-key"))
        return unavailable()

    with pytest.raises(ApiError) as caught:
        await with_server(answer, lambda api: api.post("/v1/invoke/agt_1", {}))
    assert caught.value.exit_code == ExitCode.UNAVAILABLE
    assert calls == [None]


async def test_pages_are_followed_to_the_last_one() -> None:
    async def answer(request: Request) -> Response:
        cursor = request.query_params.get("cursor")
        return JSONResponse({"agents": [{"at": cursor}], "nextCursor": None if cursor else "c"})

    found = await with_server(answer, lambda api: list(api.pages("/v1/agents", "agents")))
    assert found == [{"at": None}, {"at": "c"}]


async def test_each_event_is_given_out_before_the_next_one_is_written() -> None:
    received = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def answer(request: Request) -> Response:
        async def body() -> Any:
            for number in range(5):
                yield f"event: delta\ndata: {json.dumps(number)}\n\n"
                # The next one is only written once this one has been seen.
                await asyncio.wait_for(received.wait(), 5)
                received.clear()

        return StreamingResponse(body(), media_type="text/event-stream")

    def use(api: Api) -> list[int]:
        found: list[int] = []
        for event in api.stream("/v1/invoke/agt_1/stream", {}):
            found.append(json.loads(event.data))
            loop.call_soon_threadsafe(received.set)
        return found

    assert await with_server(answer, use) == [0, 1, 2, 3, 4]


async def test_a_stream_is_the_same_wherever_it_was_cut() -> None:
    stream = (
        b": hello\n\nid: 1\nevent: meta\ndata: {}\n\n: heartbeat\n\n"
        b"event: delta\r\ndata: d\xc3\xa9j\xc3\xa0 vu \xe2\x80\xa8 same line\r\n\r\n"
        b"data: one\ndata: two\n\nevent: delta\ndata: cut off\n"
    )

    async def answer(request: Request) -> Response:
        size = int(request.query_params["size"])

        async def body() -> Any:
            for start in range(0, len(stream), size):
                yield stream[start : start + size]
                await asyncio.sleep(0)  # lets each piece go out by itself

        return StreamingResponse(body(), media_type="text/event-stream")

    def use(api: Api) -> list[list[tuple[str, str, str]]]:
        return [
            [(event.event, event.data, event.id) for event in api.stream(f"/s?size={size}", {})]
            for size in (1, 2, 3, 7, len(stream))
        ]

    expected = [
        ("meta", "{}", "1"),
        ("delta", "déjà vu \u2028 same line", "1"),
        ("message", "one\ntwo", "1"),
    ]
    assert await with_server(answer, use) == [expected] * 5


async def test_an_answer_that_is_no_stream_is_said_to_be_none() -> None:
    async def answer(request: Request) -> Response:
        return JSONResponse({})

    with pytest.raises(CommandError, match="text/event-stream"):
        await with_server(answer, lambda api: list(api.stream("/s", {})))


async def test_a_refused_stream_is_the_envelope() -> None:
    async def answer(request: Request) -> Response:
        return unavailable()

    with pytest.raises(ApiError, match="Away"):
        await with_server(answer, lambda api: list(api.stream("/v1/invoke/agt_1/stream", {})))


def test_nobody_there_is_unavailable() -> None:
    with (
        Api("http://127.0.0.1:1", "t") as api,
        pytest.raises(CommandError, match=r"no answer from http://127\.0\.0\.1:1") as caught,
    ):
        api.post("/v1/agents")
    assert caught.value.exit_code == ExitCode.UNAVAILABLE


async def test_a_call_is_sent_once_with_the_callers_own_key() -> None:
    seen: list[str | None] = []

    async def answer(request: Request) -> Response:
        seen.append(request.headers.get("Idempotency-Key"))
        return unavailable()

    for key in (None, "mine"):
        with pytest.raises(ApiError):
            await with_server(
                answer, lambda api, key=key: api.post("/v1/invoke/agt_1", {}, key=key)
            )
        with pytest.raises(ApiError):
            await with_server(answer, lambda api, key=key: list(api.stream("/x", {}, key=key)))
    assert seen == [None, None, "mine", "mine"]
