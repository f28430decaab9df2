"""What billing answers of the feed of settled usage: pages of it, and what an export comes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.periods import is_period, start_ms
from webhost_contracts.subjects import PARTITIONS
from webhost_contracts.usage_feed import (
    MOST,
    FeedEntry,
    Refusal,
    UsageExportReply,
    UsageExportRequest,
    UsageFeedReply,
    UsageFeedRequest,
)

from webhost_billing.charging import subtract
from webhost_billing.counters import counters_of
from webhost_billing.feed import statements
from webhost_billing.feed.cursor import UNREAD, NotACursor, Place, decoded, encoded, mark_of, shares
from webhost_billing.feed.store import DAY_MS, FEED_DAYS
from webhost_billing.generations import LIVE
from webhost_billing.tables import feed_heads

INVALID = Refusal(
    reason="invalid",
    message="This is not a cursor of this feed; send one as it was given, or none to begin.",
)
EXPIRED = Refusal(
    reason="expired",
    message=(
        f"What follows this cursor is older than the {FEED_DAYS} days that the feed keeps, and was"
        " removed. Begin without a cursor, and leave out the ids that you have."
    ),
)
OTHER_HISTORY = Refusal(
    reason="other_history",
    message=(
        "The feed is another one than this cursor was read from: everything was restored to an"
        " earlier time. Begin without a cursor, and compare what you have with it by id."
    ),
)


class Refused(Exception):
    """The request cannot be answered; the refusal says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(frozen=True)
class Head:
    """The numbers of a partition's newest entry and of the oldest that is kept."""

    newest: int = 0
    oldest: int = 1


async def page(
    connection: AsyncConnection, request: UsageFeedRequest, installation_id: str
) -> UsageFeedReply:
    """Return a page, read in one snapshot. Raises Refused."""
    heads = await _heads(connection)
    cursor = _places(request.after, installation_id) or [Place(h.oldest - 1) for h in heads]
    ends = _places(request.until, installation_id) or [Place(h.newest) for h in heads]
    available = [
        _available(place, head, end.number)
        for place, head, end in zip(cursor, heads, ends, strict=True)
    ]
    taken = shares(available, min(max(request.limit, 1), MOST))
    rows = await _read(connection, cursor, taken)
    places = [*cursor]
    entries: list[FeedEntry] = []
    for row in rows:
        if row.number == cursor[row.partition].number:
            if cursor[row.partition].mark not in (UNREAD, mark_of(row.id)):
                raise Refused(OTHER_HISTORY)
            continue
        places[row.partition] = Place(row.number, mark_of(row.id))
        if request.period_key in (None, row.period_key):
            entries.append(_entry(row))
    return UsageFeedReply(
        source=source_of(installation_id),
        entries=tuple(entries),
        next=encoded(places, installation_id),
        more=sum(available) > sum(taken),
        read=sum(taken),
    )


async def export(
    connection: AsyncConnection, request: UsageExportRequest, installation_id: str
) -> UsageExportReply:
    """Return where an export of a period ends, and what it has to come to, as of one snapshot.

    Raises Refused.
    """
    period = request.period_key
    if not is_period(period):
        message = f"'{period}' is no period; write YYYY-MM, of 2000 to 2099."
        raise Refused(Refusal(reason="invalid", message=message))
    removed_ms = await connection.scalar(sa.select(sa.func.max(feed_heads.c.removed_ms))) or 0
    # A call may be settled a little before the time that its Worker named.
    if removed_ms > start_ms(period) - DAY_MS:
        message = f"The feed keeps {FEED_DAYS} days; entries of {period} were removed from it."
        raise Refused(Refusal(reason="removed", message=message))
    heads = await _heads(connection)
    ends = [Place(head.newest) for head in heads]
    generation = await connection.scalar(sa.select(LIVE))
    known = {"generation": generation, "period": period}
    used = (await connection.execute(statements.USAGE_OF_PERIOD, known)).one()
    waits = (await connection.execute(statements.WAITING_OF_PERIOD, known)).one()
    return UsageExportReply(
        end=encoded(ends, installation_id),
        entries=sum(head.newest + 1 - head.oldest for head in heads),
        settled=subtract(counters_of(used), counters_of(waits)),
        waiting=waits.waiting,
    )


def source_of(installation_id: str) -> str:
    """Return the installation as a URI reference, as the `source` of events has to be."""
    return quote(installation_id, safe="")


def _places(text: str | None, installation_id: str) -> Sequence[Place] | None:
    if text is None:
        return None
    try:
        return decoded(text, installation_id)
    except NotACursor as error:
        raise Refused(INVALID) from error


def _available(place: Place, head: Head, end: int) -> int:
    """Return how many entries there are behind a place. Raises Refused where some were removed.

    There is none behind a place that was not reached yet, as it is for a while after a restore.
    """
    if place.number + 1 < head.oldest:
        raise Refused(EXPIRED)
    return max(min(head.newest, end) - place.number, 0)


async def _heads(connection: AsyncConnection) -> list[Head]:
    heads = [Head()] * PARTITIONS
    for row in await connection.execute(sa.select(feed_heads)):
        heads[row.partition] = Head(row.newest, row.oldest)
    return heads


async def _read(
    connection: AsyncConnection, cursor: Sequence[Place], taken: Sequence[int]
) -> Sequence[sa.Row[Any]]:
    """Return the next entries of each partition, and before them the last that was read."""
    found = await connection.execute(
        statements.READ_PLACES,
        {
            "partitions": list(range(PARTITIONS)),
            "begins": [place.number for place in cursor],
            "ends": [place.number + count for place, count in zip(cursor, taken, strict=True)],
            "most": MOST + 1,
        },
    )
    return found.all()


def _entry(row: sa.Row[Any]) -> FeedEntry:
    return FeedEntry(
        id=row.id,
        user_id=row.user_id,
        agent_id=row.agent_id,
        deployment_id=row.deployment_id,
        runtime_provider=row.runtime_provider,
        period_key=row.period_key,
        at_ms=row.at_ms,
        source=row.source,
        counters=counters_of(row),
        invocation_id=row.invocation_id,
        key_id=row.key_id,
        correction_of=row.correction_of,
    )
