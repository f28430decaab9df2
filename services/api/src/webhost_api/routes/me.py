"""The caller."""

from fastapi import APIRouter, Response

from webhost_api import handlers, queries
from webhost_api.dependencies import CurrentCaller, Deps
from webhost_api.http import UserRoute, answered
from webhost_api.keys.access import open_to_limited
from webhost_api.schemas.me import UserResponse, UserSchema, entitlements_schema

router = APIRouter(tags=["user"], route_class=UserRoute)


@router.get("/v1/me", response_model=UserResponse)
@open_to_limited
async def me(deps: Deps, caller: CurrentCaller) -> Response:
    """The caller, with the tier and what it allows."""
    async with deps.database.transaction() as connection:
        row = await queries.user(connection, caller.user_id)
        tier, entitlements = await handlers.tier_of(connection, deps.tiers, caller.user_id)
    return answered(
        UserResponse(
            user=UserSchema(
                id=row.user_id,
                subject=row.subject,
                email=row.email,
                name=row.name,
                tier=tier,
                entitlements=entitlements_schema(entitlements),
                created_at_ms=row.created_at_ms,
            )
        )
    )
