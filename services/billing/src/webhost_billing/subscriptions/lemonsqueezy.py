"""LemonSqueezy's API: a checkout is made, subscriptions are read back. All that knows its HTTP.

Guarantees: every call is bounded in time, and every answer in bytes; no redirect is followed. The
API key is in no error and no log.
On a repeat: a checkout is another one; the rest only reads.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from webhost_kit.errors import Unavailable

CALL_S = 10.0
CONNECT_S = 4.0
MOST_BYTES = 8 * 1024 * 1024
PAGE_SIZE = 100
MOST_PAGES = 2_000
LIMIT_WAIT_S = 30
"""Its limit is 300 calls a minute."""
LIMIT_TRIES = 5
JSON_API = "application/vnd.api+json"

T = TypeVar("T")


class ProviderAway(Unavailable):
    """LemonSqueezy did not answer, or not as it documents; it may later."""


class ProviderRefused(Exception):
    """LemonSqueezy refused; the message is for the operator."""


class NoSuchSubscription(ProviderRefused):
    """LemonSqueezy knows no subscription of this id."""


class _Error(msgspec.Struct):
    detail: str = ""
    title: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


class _CheckoutAttributes(msgspec.Struct):
    url: str


class _Checkout(msgspec.Struct):
    id: str | int
    attributes: _CheckoutAttributes


class _CheckoutAnswer(msgspec.Struct):
    data: _Checkout


class _Page(msgspec.Struct, rename="camel"):
    last_page: int = 1


class _Meta(msgspec.Struct):
    page: _Page = msgspec.field(default_factory=_Page)


class _Listing(msgspec.Struct):
    data: list[msgspec.Raw]
    meta: _Meta = msgspec.field(default_factory=_Meta)


class _Single(msgspec.Struct):
    data: msgspec.Raw


@dataclass(frozen=True)
class Checkout:
    """A page on which something can be bought."""

    id: str
    url: str


class LemonSqueezy:
    """One store. All methods raise ProviderAway and ProviderRefused."""

    def __init__(self, base_url: str, api_key: str, store_id: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._store_id = store_id
        headers = {
            "Authorization": f"Bearer {api_key}",
            "Accept": JSON_API,
            "Content-Type": JSON_API,
        }
        timeout = httpx.Timeout(CALL_S, connect=CONNECT_S)
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def create_checkout(
        self,
        variant_id: str,
        custom: Mapping[str, str],
        *,
        expires_at: str,
        email: str | None,
        name: str | None,
        redirect_url: str | None,
        test_mode: bool,
    ) -> Checkout:
        """Make a page on which this variant can be bought; `custom` comes back in deliveries.

        `expires_at` is in ISO 8601.
        """
        data: dict[str, Any] = {"custom": dict(custom)}
        data |= {key: value for key, value in (("email", email), ("name", name)) if value}
        attributes: dict[str, Any] = {"checkout_data": data, "expires_at": expires_at}
        if redirect_url is not None:
            attributes["product_options"] = {"redirect_url": redirect_url}
        if test_mode:
            attributes["test_mode"] = True
        body = {
            "data": {
                "type": "checkouts",
                "attributes": attributes,
                "relationships": {
                    "store": {"data": {"type": "stores", "id": self._store_id}},
                    "variant": {"data": {"type": "variants", "id": variant_id}},
                },
            }
        }
        answer = await self._call("POST", "/v1/checkouts", _CheckoutAnswer, body=body)
        url = answer.data.attributes.url
        if urlsplit(url).scheme not in {"https", urlsplit(self._base_url).scheme}:
            raise ProviderAway("LemonSqueezy gave no address of a checkout.")
        return Checkout(str(answer.data.id), url)

    async def subscriptions(self) -> AsyncGenerator[list[bytes]]:
        """Yield all subscriptions of the store, page by page, each as JSON.

        The newest are first: one that is made meanwhile moves others to a later page, so that some
        come twice, and none is left out.
        """
        number = 1
        while True:
            listing = await self._call(
                "GET",
                "/v1/subscriptions",
                _Listing,
                params={
                    "filter[store_id]": self._store_id,
                    "page[number]": str(number),
                    "page[size]": str(PAGE_SIZE),
                },
            )
            yield [bytes(each) for each in listing.data]
            if number >= listing.meta.page.last_page:
                return
            if number == MOST_PAGES:
                raise ProviderRefused(f"there are more than {MOST_PAGES} pages of subscriptions")
            number += 1

    async def subscription(self, subscription_id: str) -> bytes:
        """Return one subscription as JSON. Raises NoSuchSubscription."""
        if not subscription_id.isascii() or not subscription_id.isalnum():
            raise NoSuchSubscription("this is no id of a subscription")
        path = f"/v1/subscriptions/{subscription_id}"
        return bytes((await self._call("GET", path, _Single)).data)

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
    ) -> T:
        """Return the answer. A read waits for the limit of calls to pass."""
        status, wait_s, content = await self._send(method, path, body, params)
        for _ in range(LIMIT_TRIES if method == "GET" else 0):
            if status != 429:
                break
            await asyncio.sleep(min(wait_s, LIMIT_WAIT_S))
            status, wait_s, content = await self._send(method, path, body, params)
        if status == 429 or status >= 500:
            raise ProviderAway("LemonSqueezy is unavailable; try again shortly.")
        if status == 404 and method == "GET":
            raise NoSuchSubscription("LemonSqueezy knows no such subscription")
        if not 200 <= status < 300:
            raise ProviderRefused(f"LemonSqueezy refused with {status}: {_said(content)}")
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ProviderAway("LemonSqueezy answered with something else.") from error

    async def _send(
        self, method: str, path: str, body: Any, params: Mapping[str, str] | None
    ) -> tuple[int, int, bytes]:
        """Return the status, after how many seconds to try again, and the body."""
        try:
            async with (
                asyncio.timeout(CALL_S),
                self._http.stream(
                    method,
                    self._base_url + path,
                    params=params,
                    content=None if body is None else msgspec.json.encode(body),
                ) as response,
            ):
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MOST_BYTES:
                        raise ProviderAway("LemonSqueezy answered with too much.")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            raise ProviderAway("LemonSqueezy cannot be reached; try again shortly.") from error
        wait = response.headers.get("Retry-After", "")
        return response.status_code, int(wait) if wait.isdecimal() else 1, bytes(content)


def _said(content: bytes) -> str:
    try:
        errors = msgspec.json.decode(content, type=_Errors).errors
    except (msgspec.DecodeError, RecursionError):
        return "no reason given"
    said = "; ".join(error.detail or error.title for error in errors)
    return "".join(each for each in said if each.isprintable())[:300] or "no reason given"
