"""Users' accounts as rows: loaded for a decision, saved after it."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_kit.eventsourcing.aggregates import Aggregate

from webhost_billing import decisions
from webhost_billing.decisions import Account
from webhost_billing.subscriptions import store as subscriptions
from webhost_billing.tables import accounts


async def load(connection: AsyncConnection, user_id: str) -> Account:
    """Return what was decided about a user so far."""
    query = sa.select(accounts).where(accounts.c.user_id == user_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return Account(user_id)
    known = await subscriptions.of_user(connection, user_id)
    return Account(user_id, row.version, row.tier, row.disabled, row.granted, known)


async def save(connection: AsyncConnection, before: Account, after: Account) -> None:
    """Write what was decided about a user."""
    await subscriptions.save(connection, after.user_id, before.subscriptions, after.subscriptions)
    values = {
        "version": after.version,
        "tier": after.tier,
        "disabled": after.disabled,
        "granted": after.granted,
    }
    await connection.execute(
        insert(accounts)
        .values(user_id=after.user_id, **values)
        .on_conflict_do_update(index_elements=["user_id"], set_=values)
    )


ACCOUNTS = Aggregate(decisions.evolve, save)
"""How decisions about accounts become facts."""
