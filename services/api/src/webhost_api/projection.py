"""The history of users' things, for the audit, agents' events and deployments' logs.

Consumes: on EVENTS, the kinds of the types in `history.SHOWN`, of all services.
Guarantees: the rows and the checkpoint are one transaction. An agent's events are numbered in it,
without gaps, in the order in which they are committed, since one process folds at a time; who
follows the numbers misses nothing and gets nothing twice. The commit wakes the reader of `feed`.
On replay: a row that is there gets its content anew, and keeps its number; what is missing is added
behind the newest. A fact that is older than the shortest retention of logs is no event any more: it
takes a number and leaves it out, so that whoever follows is told that something is missing.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.events.base import by_name
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.notifications import notify
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.process.crashpoints import crash_point

from webhost_api.handlers import Tiers
from webhost_api.history import SHOWN, audit_since, logs_since, row_of
from webhost_api.tables import agent_events, history

NAME = "api.history"
CHANNEL = "history"
"""What is notified with each commit."""

_TYPES = by_name(*SHOWN)
_FILTERS = tuple(subjects.events_of_kind(kind) for kind in sorted({t.kind() for t in SHOWN}))


class History:
    """Folds facts into rows."""

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tuple[Entitlements, ...](tiers.values())

    def projector(self, database: Database, bus: Bus) -> Projector:
        """Return the projector that runs this fold."""
        return Projector(
            NAME,
            database,
            bus,
            subjects.EVENTS,
            _FILTERS,
            _TYPES,
            self.fold,
            committed=_committed,
        )

    async def fold(
        self, connection: AsyncConnection, facts: Sequence[Fact], _checkpoint: Checkpoint
    ) -> None:
        """Fold a batch of facts, in order."""
        now = now_ms()
        kept_since = min(audit_since(tier, now) for tier in self._tiers)
        shown_since = max(logs_since(tier, now) for tier in self._tiers)
        rows = {
            fact.envelope.event_id: row_of(fact.envelope, fact.event) | {"number": None}
            for fact in facts
            if fact.envelope.occurred_at_ms >= kept_since
        }
        if not rows:
            return
        query = sa.select(history.c.event_id).where(history.c.event_id.in_(rows))
        known = set(await connection.scalars(query))
        await _number(
            [row for key, row in rows.items() if key not in known], connection, shown_since
        )
        statement = insert(history).values(list(rows.values()))
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["event_id"],
                set_={
                    column.name: statement.excluded[column.name]
                    for column in history.c
                    if column.name not in ("event_id", "number")
                },
            )
        )
        await notify(connection, CHANNEL)


async def _number(
    rows: Sequence[dict[str, Any]], connection: AsyncConnection, shown_since: int
) -> None:
    """Give the new rows that are about an agent their numbers."""
    counts = Counter(row["agent_id"] for row in rows if row["agent_id"] is not None)
    if not counts:
        return
    statement = insert(agent_events).values(
        [{"agent_id": agent, "last_number": count} for agent, count in counts.items()]
    )
    last = agent_events.c.last_number + statement.excluded.last_number
    found = await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["agent_id"], set_={"last_number": last}
        ).returning(agent_events)
    )
    following = {row.agent_id: row.last_number - counts[row.agent_id] for row in found}
    for row in rows:
        if (agent := row["agent_id"]) is not None:
            following[agent] += 1
            row["number"] = following[agent] if row["at_ms"] >= shown_since else None


async def _committed() -> None:
    crash_point("api.history_folded")
