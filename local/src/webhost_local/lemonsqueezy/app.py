"""The store as an ASGI application: `/v1/…` is the API, the rest are pages for a browser.

GET and POST /checkout/custom/{id} (pay); GET /billing/{id}, POST /billing/{id}/{action};
GET / (all of it); POST /deliveries/{number}/again; GET /livez, /readyz.
"""

import time
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from webhost_local.lemonsqueezy import pages
from webhost_local.lemonsqueezy.api import Api
from webhost_local.lemonsqueezy.model import ACTIONS, Checkout, Refused, Subscription, possible
from webhost_local.lemonsqueezy.shop import Shop
from webhost_local.listening import LOOPBACK_HOSTS

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Pages:
    """What a buyer sees, and a developer."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def routes(self) -> list[Route]:
        return [
            Route("/", self.overview),
            Route("/checkout/custom/{id}", self.checkout, methods=["GET", "POST"]),
            Route("/billing/{id:int}", self.subscription),
            Route("/billing/{id:int}/{action}", self.change, methods=["POST"]),
            Route("/deliveries/{number:int}/again", self.send_again, methods=["POST"]),
            Route("/livez", self.health),
            Route("/readyz", self.health),
        ]

    async def overview(self, request: Request) -> Response:
        return _page(pages.overview(self._shop.store.subscriptions, self._shop.webhooks.attempted))

    async def checkout(self, request: Request) -> Response:
        made = self._shop.store.checkouts.get(request.path_params["id"])
        if made is None or _has_expired(made):
            return _refused("There is no such checkout, or it has expired.", 404)
        if request.method == "GET":
            return _page(pages.checkout(made))
        if _is_foreign(request):
            return _refused("This form was sent by another site.", 403)
        async with request.form(max_files=0, max_fields=10, max_part_size=4096) as form:
            email, name = str(form.get("email", "")).strip(), str(form.get("name", "")).strip()
        if not email:
            return _refused("An email is needed.", 400)
        bought = self._shop.buy(made, email, name)
        return RedirectResponse(made.redirect_url or f"/billing/{bought.id}", 303)

    async def subscription(self, request: Request) -> Response:
        found = self._found(request)
        if found is None:
            return _refused("There is no such subscription.", 404)
        return _page(pages.subscription(found, possible(found, int(time.time()))))

    async def change(self, request: Request) -> Response:
        found, action = self._found(request), ACTIONS.get(request.path_params["action"])
        if found is None or action is None:
            return _refused("There is no such subscription, or no such action.", 404)
        if _is_foreign(request):
            return _refused("This form was sent by another site.", 403)
        try:
            self._shop.change(found, action[1])
        except Refused as error:
            return _refused(str(error), 409)
        return RedirectResponse(f"/billing/{found.id}", 303)

    async def send_again(self, request: Request) -> Response:
        if _is_foreign(request):
            return _refused("This form was sent by another site.", 403)
        if not self._shop.webhooks.send_again(request.path_params["number"]):
            return _refused("There is no such delivery.", 404)
        return RedirectResponse("/", 303)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def _found(self, request: Request) -> Subscription | None:
        return self._shop.store.subscription(request.path_params["id"])


def build(shop: Shop, api_key: str, *, hosts: Sequence[str] = ()) -> Starlette:
    """The store as an ASGI application, for loopback and the names of `hosts`."""
    return Starlette(
        routes=[*Api(shop, api_key).routes(), *Pages(shop).routes()],
        # A page of another site must not reach us under its own name (DNS rebinding).
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_HOSTS, *hosts])],
    )


def _is_foreign(request: Request) -> bool:
    return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def _has_expired(made: Checkout) -> bool:
    return made.expires_at is not None and made.expires_at <= time.time()


def _page(text: str) -> Response:
    return HTMLResponse(text, headers=_HEADERS)


def _refused(reason: str, status: int) -> Response:
    return HTMLResponse(pages.refused(reason), status, headers=_HEADERS)
