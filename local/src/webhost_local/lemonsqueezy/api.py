"""The store's API, in LemonSqueezy's shapes: checkouts are made, subscriptions read and changed."""

import hmac
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from webhost_local.lemonsqueezy import model, resources
from webhost_local.lemonsqueezy.model import BY_ID, STORE_ID, Refused, Subscription
from webhost_local.lemonsqueezy.shop import Shop

MEDIA_TYPE = "application/vnd.api+json"
MOST_BYTES = 256 * 1024
CALLS_A_MINUTE = 300
DEFAULT_SIZE, MOST_SIZE = 10, 100

Json = dict[str, Any]
Handler = Callable[[Request], Awaitable[Response]]


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, title: str, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.error: Json = {"detail": detail, "status": str(status), "title": title}
        if pointer is not None:
            self.error["source"] = {"pointer": pointer}


def unprocessable(pointer: str, detail: str) -> ApiError:
    return ApiError(422, "Unprocessable Entity", detail, pointer)


class _Id(msgspec.Struct):
    id: str | int


class _Related(msgspec.Struct):
    data: _Id


class _Relationships(msgspec.Struct):
    store: _Related
    variant: _Related


class _CheckoutData(msgspec.Struct):
    email: str = ""
    name: str = ""
    custom: dict[str, Any] = {}


class _ProductOptions(msgspec.Struct):
    redirect_url: str | None = None


class _CheckoutAttributes(msgspec.Struct):
    checkout_data: _CheckoutData = msgspec.field(default_factory=_CheckoutData)
    product_options: _ProductOptions = msgspec.field(default_factory=_ProductOptions)
    expires_at: str | None = None


class _NewCheckout(msgspec.Struct):
    relationships: _Relationships
    attributes: _CheckoutAttributes = msgspec.field(default_factory=_CheckoutAttributes)


class _Pause(msgspec.Struct):
    mode: str


class _Changes(msgspec.Struct):
    variant_id: int | None = None
    cancelled: bool | None = None
    pause: _Pause | msgspec.UnsetType | None = msgspec.UNSET


class _Change(msgspec.Struct):
    attributes: _Changes


class _Whole(msgspec.Struct):
    data: msgspec.Raw


class Api:
    """The endpoints below `/v1`, for whoever has the key."""

    def __init__(self, shop: Shop, api_key: str) -> None:
        self._shop = shop
        self._api_key = api_key.encode()
        self._window, self._calls = 0.0, 0

    def routes(self) -> list[Route]:
        one = "/v1/subscriptions/{id:int}"
        return [
            Route("/v1/checkouts", self._with_key(self.create_checkout), methods=["POST"]),
            Route("/v1/checkouts/{id}", self._with_key(self.checkout), methods=["GET"]),
            Route("/v1/subscriptions", self._with_key(self.subscriptions), methods=["GET"]),
            Route(one, self._with_key(self.subscription), methods=["GET"]),
            Route(one, self._with_key(self.update), methods=["PATCH"]),
            Route(one, self._with_key(self.cancel), methods=["DELETE"]),
        ]

    async def create_checkout(self, request: Request) -> Response:
        wanted = await _read(request, _NewCheckout)
        if str(wanted.relationships.store.data.id) != str(STORE_ID):
            raise unprocessable("/data/relationships/store", "The related store does not exist.")
        variant_id = wanted.relationships.variant.data.id
        if not str(variant_id).isdecimal() or int(variant_id) not in BY_ID:
            pointer = "/data/relationships/variant"
            raise unprocessable(pointer, "The related variant does not exist.")
        said = wanted.attributes
        made = self._shop.store.add_checkout(
            int(variant_id),
            # Whatever was sent comes back as text.
            {name: str(value) for name, value in said.checkout_data.custom.items()},
            email=said.checkout_data.email,
            name=said.checkout_data.name,
            redirect_url=said.product_options.redirect_url,
            expires_at=_seconds(said.expires_at),
        )
        return _answer({"data": resources.checkout(made, self._shop.base_url)}, 201)

    async def checkout(self, request: Request) -> Response:
        made = self._shop.store.checkouts.get(request.path_params["id"])
        if made is None:
            raise _not_found()
        return _answer({"data": resources.checkout(made, self._shop.base_url)})

    async def subscriptions(self, request: Request) -> Response:
        query = request.query_params
        size = min(max(_number(query.get("page[size]"), DEFAULT_SIZE), 1), MOST_SIZE)
        page = max(_number(query.get("page[number]"), 1), 1)
        wanted = query.get("filter[store_id]", str(STORE_ID)) == str(STORE_ID)
        status, email = query.get("filter[status]"), query.get("filter[user_email]")
        found = [
            one
            for one in self._shop.store.subscriptions
            if wanted and status in (None, one.status) and email in (None, one.email)
        ]
        last = max(-(-len(found) // size), 1)
        shown = found[(page - 1) * size : page * size]
        first = (page - 1) * size + 1
        meta = {
            "currentPage": page,
            "from": first if shown else None,
            "lastPage": last,
            "perPage": size,
            "to": first + len(shown) - 1 if shown else None,
            "total": len(found),
        }
        links = {"first": self._page(1, size), "last": self._page(last, size)}
        if page < last:
            links["next"] = self._page(page + 1, size)
        data = [resources.subscription(one, self._shop.base_url) for one in shown]
        return _answer({"meta": {"page": meta}, "links": links, "data": data})

    async def subscription(self, request: Request) -> Response:
        return self._one(self._found(request))

    async def update(self, request: Request) -> Response:
        found = self._found(request)
        changes = (await _read(request, _Change)).attributes
        if changes.variant_id is not None:
            self._change(found, model.to_variant(changes.variant_id))
        if changes.cancelled is not None:
            self._change(found, model.cancel if changes.cancelled else model.resume)
        if changes.pause is None:
            self._change(found, model.unpause)
        elif isinstance(changes.pause, _Pause):
            self._change(found, model.pause_free if changes.pause.mode == "free" else model.pause)
        return self._one(found)

    async def cancel(self, request: Request) -> Response:
        found = self._found(request)
        self._change(found, model.cancel)
        return self._one(found)

    def _change(self, found: Subscription, change: model.Change) -> None:
        try:
            self._shop.change(found, change)
        except Refused as error:
            raise unprocessable("/data/attributes", str(error)) from None

    def _one(self, found: Subscription) -> Response:
        return _answer({"data": resources.subscription(found, self._shop.base_url)})

    def _found(self, request: Request) -> Subscription:
        found = self._shop.store.subscription(request.path_params["id"])
        if found is None:
            raise _not_found()
        return found

    def _page(self, number: int, size: int) -> str:
        query = urlencode({"page[number]": number, "page[size]": size})
        return f"{self._shop.base_url}/v1/subscriptions?{query}"

    def _with_key(self, handle: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            try:
                self._check(request)
                return await handle(request)
            except ApiError as error:
                headers = {"Retry-After": "5"} if error.status == 429 else None
                return _answer({"errors": [error.error]}, error.status, headers)

        return checked

    def _check(self, request: Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not hmac.compare_digest(key.encode(), self._api_key):
            raise ApiError(401, "Unauthorized", "Unauthenticated.")
        accepts = request.headers.get("Accept", "*/*")
        if MEDIA_TYPE not in accepts and "*/*" not in accepts:
            raise ApiError(406, "Not Acceptable", "The requested resource is not in this form.")
        if time.monotonic() - self._window >= 60:
            self._window, self._calls = time.monotonic(), 0
        self._calls += 1
        if self._calls > CALLS_A_MINUTE:
            raise ApiError(429, "Too Many Requests", "Too Many Attempts.")


async def _read(request: Request, kind: type[Any]) -> Any:
    if request.headers.get("Content-Type", "").partition(";")[0] != MEDIA_TYPE:
        raise ApiError(415, "Unsupported Media Type", "The request entity has a type of its own.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise ApiError(413, "Payload Too Large", "The body is too large.")
    try:
        return msgspec.json.decode(msgspec.json.decode(body, type=_Whole).data, type=kind)
    except msgspec.DecodeError as error:
        raise unprocessable("/data", f"The body is not valid: {error}") from None


def _answer(body: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    whole = {"jsonapi": {"version": "1.0"}, **body}
    return JSONResponse(whole, status, media_type=MEDIA_TYPE, headers=headers)


def _not_found() -> ApiError:
    return ApiError(404, "Not Found", "The related resource does not exist.")


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        pointer = "/data/attributes/expires_at"
        raise unprocessable(pointer, "The expires at is not a valid date.") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
