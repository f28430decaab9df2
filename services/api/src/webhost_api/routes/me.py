"""The door to oneself."""

from fastapi import APIRouter, Response

from webhost_api import handlers, queries
from webhost_api.http import TheCaller, TheHouse, UserRoute, answered
from webhost_api.shapes.me import UserAnswer, UserShape, entitlements_shape

router = APIRouter(tags=["user"], route_class=UserRoute)


@router.get("/v1/me", response_model=UserAnswer)
async def me(house: TheHouse, caller: TheCaller) -> Response:
    """The caller, with the tier and what it allows."""
    async with house.database.transaction() as connection:
        row = await queries.user(connection, caller.user_id)
        tier, entitlements = await handlers.tier_of(connection, house.tiers, caller.user_id)
    return answered(
        UserAnswer(
            user=UserShape(
                id=row.user_id,
                subject=row.subject,
                email=row.email,
                name=row.name,
                tier=tier,
                entitlements=entitlements_shape(entitlements),
                created_at_ms=row.created_at_ms,
            )
        )
    )
