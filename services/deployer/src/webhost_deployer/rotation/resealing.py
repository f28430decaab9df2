"""Seals stored secrets again, for the first of the deployer's secrets keys.

Guarantees: a value is replaced only where it is still the one that was opened; what no key here
opens stays as it is.
On replay (a kill): what was committed is done, the rest is found again.
"""

from dataclasses import dataclass

import sqlalchemy as sa
import structlog
from webhost_kit.database.engine import Database
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.sealing import CannotOpen, Opener, Owner

from webhost_deployer.crash_points import RESEAL, Moment, point
from webhost_deployer.tables import agent_secrets, secrets

log = structlog.get_logger(__name__)

BATCH = 100


@dataclass(frozen=True)
class Resealed:
    """How many values have a new seal, and how many could not be opened."""

    done: int = 0
    failed: int = 0


async def reseal(database: Database, opener: Opener, batch: int = BATCH) -> Resealed:
    """Seal again whatever is not sealed for the first key. Raises Unavailable."""
    done = failed = 0
    after = ("", "")
    while True:
        async with database.transaction() as connection:
            query = (
                sa.select(secrets.c.agent_id, secrets.c.key, secrets.c.sealed)
                .add_columns(agent_secrets.c.user_id)
                .join(agent_secrets, agent_secrets.c.agent_id == secrets.c.agent_id)
                .where(
                    ~secrets.c.sealed.startswith(f"{opener.newest}:", autoescape=True),
                    sa.tuple_(secrets.c.agent_id, secrets.c.key) > sa.tuple_(*after),
                )
                .order_by(secrets.c.agent_id, secrets.c.key)
                .limit(batch)
            )
            found = list(await connection.execute(query))
            for row in found:
                owner = Owner(row.user_id, row.agent_id, row.key)
                try:
                    sealed = opener.reseal(row.sealed, owner)
                except CannotOpen as error:
                    log.error("secret not sealed again", agent=row.agent_id, error=str(error))
                    failed += 1
                    continue
                changed = await connection.execute(
                    sa.update(secrets)
                    .where(
                        secrets.c.agent_id == row.agent_id,
                        secrets.c.key == row.key,
                        secrets.c.sealed == row.sealed,
                    )
                    .values(sealed=sealed)
                )
                done += changed.rowcount
            if found:
                crash_point(point(RESEAL, Moment.RECORDING))
        if not found:
            return Resealed(done, failed)
        crash_point(point(RESEAL, Moment.RECORDED))
        after = (found[-1].agent_id, found[-1].key)


async def count_by_key(database: Database) -> dict[str, int]:
    """Return how many values each key opens, by its id."""
    key = sa.func.split_part(secrets.c.sealed, ":", 1)
    query = sa.select(key, sa.func.count()).where(secrets.c.sealed.is_not(None)).group_by(key)
    async with database.transaction() as connection:
        return {row[0]: row[1] for row in await connection.execute(query)}
