"""Subscriptions as rows, whose each is, and which deliveries were processed."""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from webhost_billing.subscriptions.model import Subscription, Subscriptions, due_at_ms
from webhost_billing.tables import subscriptions, webhook_deliveries

MOST_DUE = 100

_TURN = sa.text("SELECT pg_advisory_xact_lock(hashtext('account'), hashtext(:user_id))")


async def turn(connection: AsyncConnection, user_id: str) -> None:
    """Wait until no other transaction decides about this user's subscriptions."""
    await connection.execute(_TURN, {"user_id": user_id})


async def of_user(connection: AsyncConnection, user_id: str) -> dict[str, Subscription]:
    """Return a user's subscriptions by id."""
    query = sa.select(subscriptions).where(subscriptions.c.user_id == user_id)
    found = map(_subscription, await connection.execute(query))
    return {subscription.id: subscription for subscription in found}


async def known(
    connection: AsyncConnection, subscription_ids: Collection[str]
) -> dict[str, tuple[str, Subscription]]:
    """Return those of these subscriptions that are somebody's, with whose each is."""
    query = sa.select(subscriptions).where(subscriptions.c.subscription_id.in_(subscription_ids))
    rows = (await connection.execute(query)).all()
    return {row.subscription_id: (row.user_id, _subscription(row)) for row in rows}


async def ids_known(connection: AsyncConnection) -> set[str]:
    """Return the ids of all subscriptions that are somebody's."""
    return set(await connection.scalars(sa.select(subscriptions.c.subscription_id)))


async def users_of_customers(
    connection: AsyncConnection, customer_ids: Collection[str]
) -> Mapping[str, set[str]]:
    """Return the users who have a subscription of these customers, by customer."""
    table = subscriptions.c
    query = sa.select(table.customer_id, table.user_id).where(table.customer_id.in_(customer_ids))
    found: dict[str, set[str]] = {}
    for row in await connection.execute(query):
        found.setdefault(row.customer_id, set()).add(row.user_id)
    return found


async def save(
    connection: AsyncConnection, user_id: str, before: Subscriptions, after: Subscriptions
) -> None:
    """Write what changed of a user's subscriptions; whose one is never changes."""
    for subscription in after.values():
        if before.get(subscription.id) == subscription:
            continue
        values = msgspec.structs.asdict(subscription) | {"due_at_ms": due_at_ms(subscription)}
        key = {"subscription_id": values.pop("id"), "user_id": user_id}
        statement = insert(subscriptions).values(**key, **values)
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["subscription_id"],
                set_=values,
                where=subscriptions.c.user_id == user_id,
            )
        )


async def remember(connection: AsyncConnection, body_hash: str, at_ms: int) -> bool:
    """Remember a delivery; say whether it is a new one."""
    statement = insert(webhook_deliveries).values(body_hash=body_hash, received_at_ms=at_ms)
    added = statement.on_conflict_do_nothing().returning(webhook_deliveries.c.body_hash)
    return await connection.scalar(added) is not None


async def forget(connection: AsyncConnection, before_ms: int) -> None:
    """Forget deliveries that were processed before this time."""
    old = webhook_deliveries.c.received_at_ms < before_ms
    await connection.execute(sa.delete(webhook_deliveries).where(old))


async def users_due(connection: AsyncConnection, now_ms: int) -> list[str]:
    """Return some of the users of whom a subscription has ended by itself."""
    query = (
        sa.select(subscriptions.c.user_id)
        .distinct()
        .where(subscriptions.c.due_at_ms <= now_ms)
        .limit(MOST_DUE)
    )
    return list(await connection.scalars(query))


async def settled(connection: AsyncConnection, user_id: str, now_ms: int) -> None:
    """Note that what ended by itself of a user's until now was settled."""
    table = subscriptions.c
    await connection.execute(
        sa.update(subscriptions)
        .where(table.user_id == user_id, table.due_at_ms <= now_ms)
        .values(due_at_ms=None)
    )


def _subscription(row: Any) -> Subscription:
    return Subscription(
        id=row.subscription_id,
        status=row.status,
        tier=row.tier,
        variant_id=row.variant_id,
        customer_id=row.customer_id,
        updated_at_ms=row.updated_at_ms,
        renews_at_ms=row.renews_at_ms,
        ends_at_ms=row.ends_at_ms,
        trial_ends_at_ms=row.trial_ends_at_ms,
        pause_mode=row.pause_mode,
    )
