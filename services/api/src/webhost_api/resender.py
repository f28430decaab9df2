"""Sends commands again until the deployer has started on them.

Consumes: the state rows whose command is unstarted, and the facts that caused these commands.
Emits: `Deploy`, `TearDown`, `TearDownAgent` on COMMANDS, directly, not through the outbox.
Guarantees: a command that the bus lost, before or after it was delivered, is sent again until its
effect is seen. One process sends at a time; should two overlap, handlers are idempotent.
On replay: the same command with the same id, since it is made from the same fact.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any

import sqlalchemy as sa
import structlog
from nats.errors import Error as NatsError
from webhost_contracts import wire
from webhost_contracts.commands import Command
from webhost_contracts.entitlements import known_tier
from webhost_contracts.events import Envelope
from webhost_kit.bus import publishing
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.publishing import Message
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.leadership import Leadership
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.store import events_table as events

from webhost_api.commands import CAUSES, Commands, subject_of
from webhost_api.tables import accounts, agents, deployments

log = structlog.get_logger(__name__)

MOST_DELAY_S = 300.0


@dataclass(frozen=True)
class _Next:
    """When a command is sent again, and the delay until the time after that."""

    at: float
    delay_s: float


class Resender:
    """Sends each unstarted command `after_s` after its fact, then after ever longer delays."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        commands: Commands,
        tiers: Collection[str],
        *,
        after_s: float,
    ) -> None:
        self._database = database
        self._bus = bus
        self._commands = commands
        self._tiers = tiers
        self._after_s = after_s
        self._leadership = Leadership(database.dsn, "resender", check=lambda: self._problem)
        self._problem: str | None = None
        self._next: dict[str, _Next] = {}

    async def run(self) -> None:
        """Send whenever it is this process's turn; broken dependencies are waited for."""
        await self._leadership.run(self._send_repeatedly)

    async def _send_repeatedly(self) -> None:
        while True:
            try:
                await self.send_due()
                self._problem = None
            except (Unavailable, NatsError, TimeoutError, OSError) as error:
                self._problem = repr(error)
                log.warning("commands not sent again", error=repr(error))
            await asyncio.sleep(self._after_s)

    async def send_due(self) -> int:
        """Send the commands that are due, and return how many these were.

        Raises Unavailable while the database is away, NatsError, TimeoutError or OSError while
        the bus is.
        """
        unstarted = {command.command_id: command for command in await self._unstarted()}
        now = monotonic()
        first = _Next(now, 2 * self._after_s)
        self._next = {it: self._next.get(it, first) for it in unstarted}
        due = [it for it, following in self._next.items() if following.at <= now]
        for command_id in due:
            await self._send(unstarted[command_id])
            delay_s = self._next[command_id].delay_s
            self._next[command_id] = _Next(now + delay_s, min(2 * delay_s, MOST_DELAY_S))
        return len(due)

    async def _unstarted(self) -> list[Command]:
        before_ms = now_ms() - int(self._after_s * 1000)
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_CAUSES, {"before_ms": before_ms})).all()
        commands: list[Command] = []
        for envelope, tier in rows:
            cause = wire.decode(envelope, Envelope)
            event = cause.event(CAUSES)
            tier = known_tier(self._tiers, tier)
            command = event and self._commands.caused_by(cause, event, tier=tier)
            if command is not None:
                commands.append(command)
        return commands

    async def _send(self, command: Command) -> None:
        # Without a message id: the stream would drop it as a repeat of one that it lost.
        message = Message(subject_of(command), wire.encode(command), command.headers())
        await publishing.publish(self._bus, message)
        log.info("command sent again", command=command.command_id, type=command.type_name())


def _unstarted_of(table: sa.Table) -> sa.Select[Any, Any]:
    return sa.select(table.c.agent_id, table.c.unstarted_version).where(
        table.c.unstarted_version.is_not(None)
    )


_causes = sa.union_all(_unstarted_of(agents), _unstarted_of(deployments)).subquery()
_CAUSES = (
    sa.select(events.c.envelope, accounts.c.tier)
    .join(
        _causes,
        sa.and_(
            events.c.aggregate_id == _causes.c.agent_id,
            events.c.version == _causes.c.unstarted_version,
        ),
    )
    .outerjoin(accounts, accounts.c.user_id == events.c.user_id)
    .where(events.c.occurred_at_ms <= sa.bindparam("before_ms"))
)
