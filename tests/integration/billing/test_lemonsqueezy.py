"""The client of LemonSqueezy's API, against servers that fail in every way."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from webhost_billing.subscriptions import lemonsqueezy
from webhost_billing.subscriptions.lemonsqueezy import (
    JSON_API,
    LemonSqueezy,
    NoSuchSubscription,
    ProviderAway,
    ProviderRefused,
)

from tests.support.serving import serving

KEY = "the-api-key"


class Provider:
    """Answers whatever it was told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Request, bytes]] = []
        self.answers: list[Callable[[], Response]] = []
        self.app = Starlette(
            routes=[Route("/{path:path}", self.answer, methods=["GET", "POST", "PATCH"])]
        )

    async def answer(self, request: Request) -> Response:
        self.asked.append((request, await request.body()))
        return self.answers.pop(0)() if len(self.answers) > 1 else self.answers[0]()


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[tuple[Provider, str]]:
    provider = Provider()
    async with serving(provider.app) as url:
        yield provider, url


@pytest.fixture
async def provider(server: tuple[Provider, str]) -> Provider:
    server[0].asked.clear()
    return server[0]


@pytest.fixture
async def client(server: tuple[Provider, str]) -> AsyncIterator[LemonSqueezy]:
    client = LemonSqueezy(server[1], KEY, "7")
    yield client
    await client.close()


async def checkout(client: LemonSqueezy, **changes: Any) -> lemonsqueezy.Checkout:
    wanted: dict[str, Any] = {
        "expires_at": "2027-01-01T00:00:00Z",
        "email": "kim@example.com",
        "name": None,
        "redirect_url": "https://app.example",
        "test_mode": False,
        **changes,
    }
    return await client.create_checkout("42", {"user_id": "usr_x"}, **wanted)


def endless() -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1024 * 1024
            await asyncio.sleep(0.001)  # let the server see that the client is gone

    return StreamingResponse(chunks())


def silent() -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    return StreamingResponse(chunks())


@pytest.mark.accept("8.6.provider")
async def test_a_checkout_is_made_as_the_provider_documents_it(
    client: LemonSqueezy, provider: Provider
) -> None:
    made = {
        "data": {"type": "checkouts", "id": "5e8", "attributes": {"url": "https://s.example/c"}}
    }
    provider.answers = [lambda: JSONResponse(made, 201)]
    assert await checkout(client) == lemonsqueezy.Checkout("5e8", "https://s.example/c")
    [(request, body)] = provider.asked
    assert (request.method, request.url.path) == ("POST", "/v1/checkouts")
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Accept"] == request.headers["Content-Type"] == JSON_API
    assert json.loads(body) == {
        "data": {
            "type": "checkouts",
            "attributes": {
                "checkout_data": {"custom": {"user_id": "usr_x"}, "email": "kim@example.com"},
                "expires_at": "2027-01-01T00:00:00Z",
                "product_options": {"redirect_url": "https://app.example"},
            },
            "relationships": {
                "store": {"data": {"type": "stores", "id": "7"}},
                "variant": {"data": {"type": "variants", "id": "42"}},
            },
        }
    }


@pytest.mark.accept("8.6.provider")
@pytest.mark.parametrize(
    "answer",
    [
        lambda: PlainTextResponse("<html>", 502),
        lambda: PlainTextResponse("<html>", 200),
        lambda: JSONResponse({"data": []}),
        lambda: JSONResponse({"data": {"id": 1, "attributes": {"url": "javascript:alert(1)"}}}),
        lambda: JSONResponse({}, 429, headers={"Retry-After": "60"}),
        endless,
        silent,
    ],
    ids=["502", "html", "shape", "script", "429", "endless", "silent"],
)
async def test_a_provider_that_is_not_well_is_away(
    client: LemonSqueezy,
    provider: Provider,
    answer: Callable[[], Response],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lemonsqueezy, "CALL_S", 0.5)
    monkeypatch.setattr(lemonsqueezy, "MOST_BYTES", 4 * 1024 * 1024)
    provider.answers = [answer]
    async with asyncio.timeout(3):
        with pytest.raises(ProviderAway):
            await checkout(client)


@pytest.mark.accept("8.6.provider")
async def test_a_refusal_says_why_and_no_redirect_is_followed(
    client: LemonSqueezy, provider: Provider
) -> None:
    errors = {"errors": [{"detail": "The related\x1b variant does not exist.", "status": "422"}]}
    provider.answers = [lambda: JSONResponse(errors, 422)]
    with pytest.raises(ProviderRefused, match="422: The related variant does not exist"):
        await checkout(client)
    provider.answers = [lambda: PlainTextResponse("no", 401)]
    with pytest.raises(ProviderRefused, match="401: no reason given") as refused:
        await checkout(client)
    assert KEY not in str(refused.value)
    provider.answers = [lambda: RedirectResponse("/elsewhere")]
    provider.asked.clear()
    with pytest.raises(ProviderRefused, match="307"):
        await checkout(client)
    assert len(provider.asked) == 1


@pytest.mark.accept("8.6.provider")
async def test_reading_waits_for_the_limit_of_calls(
    client: LemonSqueezy, provider: Provider
) -> None:
    limited = JSONResponse({}, 429, headers={"Retry-After": "0"})
    page = {"meta": {"page": {"lastPage": 1}}, "data": [{"id": "1"}]}
    provider.answers = [lambda: limited, lambda: limited, lambda: JSONResponse(page)]
    assert [page async for page in client.subscriptions()] == [[b'{"id":"1"}']]
    assert dict(provider.asked[0][0].query_params) == {
        "filter[store_id]": "7",
        "page[number]": "1",
        "page[size]": "100",
    }
    provider.answers = [lambda: limited]
    with pytest.raises(ProviderAway):
        _ = [page async for page in client.subscriptions()]


@pytest.mark.accept("8.6.provider")
async def test_a_subscription_that_is_not_there_is_told_apart(
    client: LemonSqueezy, provider: Provider
) -> None:
    provider.answers = [lambda: JSONResponse({"errors": []}, 404)]
    for unknown in ("1", "../checkouts", "a b", ""):
        with pytest.raises(NoSuchSubscription):
            await client.subscription(unknown)
    assert [request.url.path for request, _ in provider.asked] == ["/v1/subscriptions/1"]


@pytest.mark.accept("8.6.provider")
async def test_a_provider_that_cannot_be_reached_is_away() -> None:
    client = LemonSqueezy("http://127.0.0.1:1", KEY, "7")
    with pytest.raises(ProviderAway):
        await checkout(client)
    await client.close()
