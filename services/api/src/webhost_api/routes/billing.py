"""Tiers, the caller's subscription and checkouts; and the payment provider's webhook.

Without billing, tiers are listed, and the rest is UNAVAILABLE. The webhook's deliveries are
verified by billing, which alone holds their secrets: here nothing of a body is read.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.billing_rpc import (
    CHECKOUT_TIMEOUT_S,
    CheckoutReply,
    CheckoutRequest,
    SubscriptionReply,
    SubscriptionRequest,
    WebhookReply,
    WebhookRequest,
)
from webhost_contracts.errors import ErrorCode
from webhost_kit.bus import rpc
from webhost_kit.errors import InvalidRequest, Unauthenticated, Unavailable
from webhost_kit.http import problems
from webhost_kit.process import tracing

from webhost_api import handlers, queries
from webhost_api.dependencies import CurrentCaller, Deps, RequestKey
from webhost_api.http import SignedRoute, UserRoute, answered, execute, first_response
from webhost_api.keys.access import open_to_limited
from webhost_api.openapi_responses import refusals
from webhost_api.schemas.billing import (
    CheckoutResponse,
    SubscriptionResponse,
    TierSchema,
    TiersResponse,
    WebhookResponse,
    subscription_schema,
)
from webhost_api.schemas.me import entitlements_schema
from webhost_api.schemas.requests import CheckoutBody

WEBHOOK_PATH = "/v1/billing/webhook"
SIGNATURE = "X-Signature"
MOST_SIGNATURE_CHARS = 200
UNCONFIGURED_AFTER_S = 60

router = APIRouter(tags=["billing"], route_class=UserRoute)
webhook_router = APIRouter(tags=["billing"], route_class=SignedRoute)

_signed = APIKeyHeader(
    name=SIGNATURE,
    scheme_name="WebhookSignature",
    description="The HMAC-SHA256 of the raw body in hex, with the webhook's secret.",
    auto_error=False,
)
_DELIVERY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["meta", "data"],
                    "properties": {
                        "meta": {
                            "type": "object",
                            "required": ["event_name"],
                            "properties": {"event_name": {"type": "string"}},
                        },
                        "data": {"type": "object"},
                    },
                },
                "example": {
                    "meta": {
                        "event_name": "subscription_updated",
                        "custom_data": {"user_id": "usr_0x6wshn6yp985kmv15emf6e21m"},
                    },
                    "data": {
                        "type": "subscriptions",
                        "id": "9001",
                        "attributes": {
                            "status": "active",
                            "variant_id": 1002,
                            "customer_id": 301,
                            "renews_at": "2026-12-31T00:00:00.000000Z",
                            "ends_at": None,
                            "updated_at": "2026-11-30T12:00:00.000000Z",
                        },
                    },
                },
            }
        },
    }
}


@router.get("/v1/billing/tiers", response_model=TiersResponse)
@open_to_limited
async def tiers(deps: Deps) -> Response:
    """The tiers, the lowest first, with what each allows."""
    listed = [
        TierSchema(name=name, entitlements=entitlements_schema(allowed))
        for name, allowed in deps.tiers.items()
    ]
    return answered(TiersResponse(tiers=listed))


@router.get("/v1/billing/subscription", response_model=SubscriptionResponse)
async def subscription(deps: Deps, caller: CurrentCaller) -> Response:
    """The caller's subscription, or null."""
    request = SubscriptionRequest(user_id=caller.user_id)
    reply = await rpc.call(deps.bus, subjects.RPC_SUBSCRIPTION, request, SubscriptionReply)
    found = reply.subscription
    return answered(
        SubscriptionResponse(subscription=None if found is None else subscription_schema(found))
    )


@router.post(
    "/v1/billing/checkout",
    response_model=CheckoutResponse,
    responses=refusals(ErrorCode.CONFLICT),
)
async def checkout(
    deps: Deps, caller: CurrentCaller, key: RequestKey, body: CheckoutBody
) -> Response:
    """The address of a page on which the caller can buy a tier, good for a day."""
    async with deps.database.snapshot() as connection:
        if (response := await first_response(connection, key)) is not None:
            return response
        await handlers.require_enabled(connection, caller.user_id)
        user = await queries.user(connection, caller.user_id)
    deps.rate_limits.acquire_checkout(caller.user_id)
    request = CheckoutRequest(
        user_id=caller.user_id,
        tier=body.tier,
        actor=caller.metadata.actor,
        email=user.email,
        name=user.name,
        request_id=caller.metadata.request_id,
        traceparent=caller.metadata.traceparent,
    )
    reply = await rpc.call(
        deps.bus, subjects.RPC_CHECKOUT, request, CheckoutReply, timeout_s=CHECKOUT_TIMEOUT_S
    )
    if reply.refused is not None:
        raise InvalidRequest.at(["tier"], reply.refused)
    if reply.url is None:
        raise Unavailable(
            reply.unavailable or "Nothing can be bought now; try again shortly.",
            fault="others" if reply.unconfigured else "ours",
        )
    made = CheckoutResponse(checkout_url=reply.url)

    async def work(_connection: AsyncConnection) -> BaseModel:
        return made

    return await execute(deps, key, work)


@webhook_router.post(
    WEBHOOK_PATH,
    response_model=WebhookResponse,
    responses=refusals(ErrorCode.UNAUTHENTICATED),
    openapi_extra=_DELIVERY,
)
async def webhook(
    request: Request, deps: Deps, _signature: Annotated[str | None, Depends(_signed)]
) -> Response:
    """LemonSqueezy's deliveries about subscriptions. Any other answer than 200 is sent again."""
    signatures = request.headers.getlist(SIGNATURE)
    if len(signatures) != 1 or len(signatures[0]) > MOST_SIGNATURE_CHARS:
        raise _refusal()
    delivery = WebhookRequest(
        body=await request.body(),
        signature=signatures[0],
        request_id=request.headers[problems.REQUEST_ID_HEADER],
        traceparent=tracing.traceparent(),
    )
    reply = await rpc.call(deps.bus, subjects.RPC_WEBHOOK, delivery, WebhookReply)
    match reply.outcome:
        case "unauthenticated":
            raise _refusal()
        case "invalid":
            raise InvalidRequest.at([], reply.reason or "The delivery is not understood.")
        case "unconfigured":
            raise Unavailable(
                reply.reason or "Billing is not configured.",
                retry_after_s=UNCONFIGURED_AFTER_S,
                fault="others",
            )
        case "processed" | "duplicate" | "ignored" as outcome:
            return answered(WebhookResponse(outcome=outcome))


def _refusal() -> Unauthenticated:
    return Unauthenticated("The delivery's signature is missing or not valid.")
