"""Compares a rebuilt generation with the live one and with the seals, and settles what differs.

Guarantees: reads and changes nothing outside of the scope. What is expensive is done while folds go
on; under the lock that holds them back there is left what can have changed meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.buckets import readable_from
from webhost_contracts.periods import period_key
from webhost_contracts.usage_rpc import Counters, Difference
from webhost_kit.clock import now_ms

from webhost_billing.counters import counters_of
from webhost_billing.rebuild import statements
from webhost_billing.rebuild.scope import FOR_EVER_MS, Held, Refused, Scope
from webhost_billing.seals.decisions import NEVER, open_from_ms
from webhost_billing.statements import FOLDED
from webhost_billing.tables import generations

MOST_SHOWN = 5_000
MOST_SERIES = 1_000
MOST_MISSING = 10_000
MOST_KEYS = 50_000
LAST_PERIOD = "9999-12"


@dataclass
class Found:
    """Rows that differ, in order; only the first are named."""

    rows: list[Difference] = field(default_factory=list[Difference])
    count: int = 0

    def add(self, other: "Found") -> None:
        """Add what was found elsewhere."""
        self.count += other.count
        self.rows += other.rows[: MOST_SHOWN - len(self.rows)]


class Comparison:
    """One rebuild's comparison of `new` with `live`; `prepare` first, then the rest under the lock.

    `differences` are between the live and the rebuilt rows, those of series last. `sealed` are
    closed rows to which the stream does not come: their seals stand.
    """

    def __init__(
        self, connection: AsyncConnection, scope: Scope, held: Held, live: int, new: int
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._parameters = {
            **scope.parameters(),
            **held.parameters(),
            "live": live,
            "new": new,
            "closed": NEVER,
        }
        self._missing: Sequence[bytes] = ()
        self._keys: dict[str, str] = {}
        self._closed_ms = 0
        self._seals = 0
        self._series = Found()
        self.differences = Found()
        self.sealed = Found()

    async def prepare(self, *, dry_run: bool) -> None:
        """Settle what is closed, and find what may differ, while folds go on.

        Raises Refused where the rebuilt rows cannot take the place of the live ones.
        """
        closed = await self._connection.scalar(
            statements.CLOSED_EVERYWHERE, {"partitions": subjects.PARTITIONS}
        )
        self._parameters["closed"] = closed
        self._seals = await self._connection.scalar(statements.SEALS_APPLIED)
        await self._carry_over()
        await self._let_seals_stand()
        self._closed_ms = open_from_ms(str(closed))
        self.differences.add(await self._differences(NEVER, str(closed)))
        self._series.add(await self._series_differences(0, self._closed_ms))
        if dry_run:
            return
        missing = await self._execute(statements.MISSING, most=MOST_MISSING)
        self._missing = [row.key for row in missing]
        if len(self._missing) == MOST_MISSING:
            await self._require_all_rebuilt()
        if not self._scope.is_all:
            await self._find_keys()

    async def finish(self) -> None:
        """Find what differs in open periods, under the lock; what was sealed since then stands."""
        if await self._connection.scalar(statements.SEALS_APPLIED) != self._seals:
            await self._let_seals_stand()
        closed = self._parameters["closed"]
        self.differences.add(await self._differences(str(closed), LAST_PERIOD))
        self._series.add(await self._series_differences(self._closed_ms, FOR_EVER_MS))
        self.differences.add(self._series)

    async def require_all_rebuilt(self) -> None:
        """Raise Refused where calls were counted that the stream holds no more."""
        if self._missing:
            await self._require_all_rebuilt()

    async def exchange(self, current_period: str) -> None:
        """Put the rows of the scope that differ into the live generation."""
        for table in FOLDED:
            keys = {"keys": self._keys[table.name]}
            await self._execute(statements.DROP_CHANGED[table.name], **keys)
            await self._execute(statements.PUT_CHANGED[table.name], **keys)
        corrections = generations.c.corrections
        await self._connection.execute(sa.update(generations).values(corrections=corrections + 1))
        await self._execute(statements.SCOPE_IS_DUE, current=current_period)

    async def _carry_over(self) -> None:
        for table in statements.CARRIED:
            await self._execute(statements.DROP_CARRIED[table.name])
            await self._execute(statements.CARRY_OVER[table.name])

    async def _let_seals_stand(self) -> None:
        unlike = await self._execute(
            statements.UNLIKE_SEALS,
            generation=self._parameters["new"],
            most=MOST_SHOWN,
        )
        self.sealed.add(_found(unlike))
        if self.sealed.count:
            await self._execute(statements.DROP_UNLIKE_SEALS)
            await self._execute(statements.PUT_SEALS)

    async def _differences(self, above: str, upto: str) -> Found:
        return _found(
            await self._execute(statements.DIFFERENCES, above=above, upto=upto, most=MOST_SHOWN)
        )

    async def _series_differences(self, from_ms: int, until_ms: int) -> Found:
        now = now_ms()
        rows = await self._execute(
            statements.SERIES_DIFFERENCES,
            from_ms=from_ms,
            until_ms=until_ms,
            minutes=readable_from("minute", now),
            hours=readable_from("hour", now),
            most=MOST_SERIES,
        )
        return Found([_series_difference(row) for row in rows], rows[0].found if rows else 0)

    async def _require_all_rebuilt(self) -> None:
        still = await self._connection.scalar(
            statements.STILL_MISSING,
            {**self._parameters, "keys": list(self._missing)},
        )
        if still:
            raise Refused(
                f"the stream does not hold {still} invocations any more as they were counted"
            )

    async def _find_keys(self) -> None:
        for table in FOLDED:
            [found] = await self._execute(statements.CHANGED_KEYS[table.name], most=MOST_KEYS)
            if found.found == MOST_KEYS:
                raise Refused(
                    f"{MOST_KEYS} rows of {table.name} differ, too many to be exchanged one by"
                    " one: rebuild everything"
                )
            self._keys[table.name] = found.keys
        if self._scope.period_key is None:
            return
        moved = await self._connection.scalar(
            statements.MOVED,
            {**self._parameters, "keys": self._keys["invocations"]},
        )
        if moved:
            raise Refused(
                f"{moved} calls belong to another period than they were charged to: rebuild"
                " everything, or all of the user"
            )

    async def _execute(self, statement: sa.TextClause, **parameters: Any) -> Sequence[Any]:
        result = await self._connection.execute(statement, {**self._parameters, **parameters})
        return result.all() if result.returns_rows else ()


def _difference(row: Any) -> Difference:
    return Difference(
        user_id=row.user_id,
        period_key=row.period_key,
        runtime_provider=row.runtime_provider,
        live=_side(row, "live_"),
        rebuilt=_side(row, "new_"),
    )


def _series_difference(row: Any) -> Difference:
    return Difference(
        user_id=row.user_id,
        period_key=period_key(row.start_ms),
        runtime_provider=row.runtime_provider,
        live=_side(row, "live_"),
        rebuilt=_side(row, "new_"),
        bucket=row.bucket,
        start_ms=row.start_ms,
        agent_id=row.agent_id,
        deployment_id=row.deployment_id,
    )


def _found(rows: Sequence[Any]) -> Found:
    return Found([_difference(row) for row in rows], rows[0].found if rows else 0)


def _side(row: Any, prefix: str) -> Counters | None:
    there = getattr(row, f"{prefix}requests") is not None
    return counters_of(row, prefix) if there else None
