"""What a rebuild is of: everything, one user, one period, or both; and what the stream holds of it.

A period is rebuilt where the stream holds all of it. One that is closed and is not whole any more
is carried over; one that is open and not whole cannot be rebuilt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids, subjects
from webhost_contracts.periods import is_period, next_period, start_ms
from webhost_contracts.usage_rpc import RebuildRequest
from webhost_kit.bus.connection import Bus
from webhost_kit.eventsourcing.checkpoints import read_checkpoint

from webhost_billing.partitions import checkpoint_name
from webhost_billing.rebuild import statements
from webhost_billing.seals import decisions as sealing
from webhost_billing.seals.decisions import NEVER

FOR_EVER_MS = 2**62


class Refused(Exception):
    """The rebuild cannot be done; the message says why."""


@dataclass(frozen=True)
class Scope:
    """The rows that a rebuild may change."""

    user_id: str | None = None
    period_key: str | None = None

    @property
    def is_all(self) -> bool:
        """Say whether everything is rebuilt."""
        return self.user_id is None and self.period_key is None

    @property
    def partitions(self) -> Sequence[int]:
        """Return the partitions that hold the facts of it."""
        if self.user_id is None:
            return range(subjects.PARTITIONS)
        return [subjects.partition_of(self.user_id)]

    def parameters(self) -> dict[str, Any]:
        """Return what limits a statement to it."""
        period = self.period_key
        return {
            "user": self.user_id,
            "period": period,
            "begin": 0 if period is None else start_ms(period),
            "end": FOR_EVER_MS if period is None else start_ms(next_period(period)),
        }


@dataclass(frozen=True)
class Held:
    """What the stream holds. Periods before `carried` are closed and not whole: carried over."""

    created_at: str
    carried: str = NEVER

    def parameters(self) -> dict[str, Any]:
        """Return what limits a statement to what is carried over."""
        end = 0 if self.carried == NEVER else start_ms(self.carried)
        return {"carried": self.carried, "carried_end": end}


def scope_of(request: RebuildRequest) -> Scope:
    """Return what is to be rebuilt. Raises Refused where that names no user or period."""
    if request.user_id is not None and not ids.has_prefix(request.user_id, ids.USER):
        raise Refused(f"'{request.user_id}' is not a user id")
    if request.period_key is not None and not is_period(request.period_key):
        raise Refused(f"'{request.period_key}' is not a period; write YYYY-MM, of 2000 to 2099")
    return Scope(request.user_id, request.period_key)


async def held(connection: AsyncConnection, bus: Bus, scope: Scope, live: int) -> Held:
    """Return what the stream holds of the scope.

    Raises Refused where it is not the one that was folded, lacks messages, or lacks the beginning
    of a period that is not closed.
    """
    info = await bus.js.stream_info(subjects.USAGE)
    created_at = str(info.created)
    was_reset = await _require_same(connection, created_at)
    _require_no_gaps(info)
    whole = await _first_whole(bus, info)
    periods = await _periods(connection, scope, live)
    if opened := [period for period, closed in periods.items() if period < whole and not closed]:
        raise Refused(
            f"the stream begins at {info.state.first_seq}: it lacks the beginning of {opened[0]},"
            " which is not sealed; what was before it cannot be rebuilt"
        )
    elsewhere = await connection.scalar(statements.CLOSED_ELSEWHERE, {"created_at": created_at})
    if elsewhere:
        whole = max(whole, next_period(str(elsewhere)))
    if was_reset and info.created is not None:
        # Before this stream there may have been another one.
        began_ms = int(info.created.timestamp() * 1000)
        whole = max(whole, sealing.first_whole_period(began_ms))
    carried = [period for period, closed in periods.items() if closed and period < whole]
    if scope.period_key is not None and scope.period_key in carried:
        raise Refused(
            f"the stream does not hold all of {scope.period_key} any more, and it is sealed:"
            " its seals stand; `webhost billing verify` compares usage with them"
        )
    return Held(created_at, next_period(max(carried)) if carried else NEVER)


async def _require_same(connection: AsyncConnection, created_at: str) -> bool:
    """Raise Refused where usage was folded from another stream; say whether it was reset once."""
    was_reset = False
    for partition in range(subjects.PARTITIONS):
        checkpoint = await read_checkpoint(connection, checkpoint_name(partition))
        if checkpoint is None:
            continue
        if checkpoint.stream_created_at not in ("", created_at):
            raise Refused("the stream is not the one that usage was folded from")
        was_reset = was_reset or checkpoint.epoch > 0
    return was_reset


def _require_no_gaps(info: StreamInfo) -> None:
    state = info.state
    lacking = state.last_seq - state.first_seq + 1 - state.messages if state.messages else 0
    if lacking:
        raise Refused(f"the stream lacks {lacking} of its messages")


async def _first_whole(bus: Bus, info: StreamInfo) -> str:
    if info.state.first_seq <= 1:
        return NEVER
    if info.state.messages == 0:
        raise Refused("the stream is empty: what was on it cannot be rebuilt")
    try:
        first = await bus.js.get_msg(subjects.USAGE, info.state.first_seq)
    except NotFoundError as error:
        raise Refused("the stream has just lost its oldest messages; try again") from error
    if first.time is None:
        raise Refused("the stream does not say when it begins")
    return sealing.first_whole_period(int(first.time.timestamp() * 1000))


async def _periods(connection: AsyncConnection, scope: Scope, live: int) -> Mapping[str, bool]:
    found = await connection.execute(statements.PERIODS, {"live": live, **scope.parameters()})
    return {row.period_key: row.closed for row in found}
