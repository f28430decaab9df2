"""The feed of settled usage: somebody else's reader of it comes to billing's own totals."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from webhost_billing.feed.decisions import WAIT_MS
from webhost_contracts import subjects
from webhost_contracts.usage_feed import (
    MOST,
    FeedEntry,
    UsageExportReply,
    UsageExportRequest,
    UsageFeedReply,
    UsageFeedRequest,
    cloud_event,
)
from webhost_contracts.usage_rpc import Counters
from webhost_kit.bus import rpc

from tests.integration.billing.conftest import ALICE, AT_MS, BOB, PERIOD, Billing, call, telemetry
from tests.support.deadline import eventually
from tests.support.usage_feed import NUMBERS, PICODOLLARS, Reader, read_batch

MONTH_MS = 31 * 24 * 3600 * 1000


async def page(billing: Billing, after: str | None = None, **request: Any) -> UsageFeedReply:
    """A page that is not refused."""
    reply = await asked(billing, after=after, **request)
    assert reply.refused is None, reply.refused
    return reply


async def asked(billing: Billing, **request: Any) -> UsageFeedReply:
    subject = subjects.RPC_USAGE_FEED
    return await rpc.call(billing.bus, subject, UsageFeedRequest(**request), UsageFeedReply)


async def pages(
    billing: Billing, after: str | None = None, **request: Any
) -> AsyncIterator[UsageFeedReply]:
    """All that follows, page by page."""
    more = True
    while more:
        reply = await page(billing, after, **request)
        yield reply
        after, more = reply.next, reply.more


async def everything(billing: Billing, after: str | None = None, **request: Any) -> Reader:
    """What another reader makes of all that follows."""
    reader = Reader()
    async for reply in pages(billing, after, **request):
        events = [cloud_event(entry, reply.source) for entry in reply.entries]
        reader.take(read_batch(msgspec.json.encode(events)))
    return reader


async def usage(billing: Billing) -> dict[tuple[str, str, str], dict[str, int]]:
    """What billing's own rows say, in the reader's words."""
    names = (*NUMBERS, PICODOLLARS)
    columns = ("requests", "llm_tokens", "compute_ms", "tool_calls", "errors", "cost_picodollars")
    return {
        (row["user_id"], row["period_key"], row["runtime_provider"]): {
            name: int(row[column]) for name, column in zip(names, columns, strict=True)
        }
        for row in await billing.rows(
            "SELECT * FROM billing_usage WHERE invocations > 0"
            " AND generation = (SELECT live FROM generations)"
        )
    }


async def an_hour_passes(billing: Billing) -> None:
    """What waits has waited for an hour; nothing arrives. Billing is restarted, and looks then."""
    await billing.service.kill()
    await billing.execute(
        "UPDATE usage_unsettled SET since_ms = since_ms - :wait_ms", wait_ms=WAIT_MS
    )
    await billing.service.start()

    async def nothing_waits() -> bool:
        return await billing.rows("SELECT * FROM usage_unsettled") == []

    await eventually(nothing_waits, "all that waited to be settled", seconds=20)


@pytest.mark.accept("8.feed.sums")
@pytest.mark.accept("8.feed.stream")
async def test_a_reader_of_the_feed_comes_to_billings_totals(
    billing: Billing, tmp_path: Path
) -> None:
    facts = [call(ALICE, number, errors=number % 2) for number in range(60)]
    facts += [telemetry(ALICE, number) for number in range(40)]
    facts += [call(BOB, number, key_id="key_1") for number in range(500, 520)]
    facts += [telemetry(BOB, number, agent_id="agt_b") for number in range(515, 530)]
    again = [call(ALICE, number) for number in range(0, 60, 7)]
    random.Random(5).shuffle(facts)
    # It dies in a fold, with all of the batch written and nothing committed.
    (tmp_path / "crash").write_text("billing.folding")
    await billing.given_usage(*facts[:70])
    assert billing.service.process is not None
    await billing.service.process.wait()
    await billing.service.start()
    await billing.given_folded(*facts[70:], *again)

    # Of the 75 + 20 that are known, those from both sides are settled.
    before = await everything(billing, limit=7)
    assert (len(before.events), before.again, before.source) == (45, [], "test")
    waiting = await billing.scalar("SELECT count(*) FROM usage_unsettled")
    assert waiting == 20 + 15 + 10
    export = await expected(billing)
    assert (export.entries, export.waiting) == (45, waiting)
    assert export.settled.requests == 45

    await an_hour_passes(billing)
    settled = await everything(billing)
    assert settled.totals() == await usage(billing)
    shown = {
        (data["source"], data["agentId"], data.get("keyId"), "invocationId" in data)
        for data in (event.get_data() for event in settled.events.values())
    }
    alone = {("gateway", "agt_a", None, True), ("gateway", "agt_a", "key_1", True)}
    assert shown == alone | {
        ("both", "agt_a", None, True),
        ("both", "agt_a", "key_1", True),
        ("worker", "agt_b", None, False),
    }

    # What comes later corrects: numbers alone, or also the period that a Worker named.
    late = [telemetry(ALICE, number) for number in range(40, 50)]
    late += [call(BOB, number, key_id="key_1") for number in range(520, 530)]
    await billing.given_folded(*late)
    after = await everything(billing, limit=11)
    assert after.again == []
    assert after.totals() == await usage(billing)
    corrections = [event for event in after.events.values() if "correctionOf" in event.get_data()]
    assert len(corrections) == 10 + 2 * 10
    assert any(event.get_data()["requests"] < 0 for event in corrections)
    export = await expected(billing)
    assert (export.entries, export.waiting) == (len(after.events), 0)
    total = after.totals()
    assert export.settled.requests == sum(row["requests"] for row in total.values())

    # Folded again, beside and from the first message, it states nothing.
    assert (await billing.rebuild())[-1].swapped
    await billing.given_folded(*again)
    assert await newest(billing) == len(after.events)
    numbers = await billing.rows("SELECT partition, number FROM usage_feed ORDER BY 1, 2")
    counted: dict[int, int] = {}
    for row in numbers:
        counted[row["partition"]] = counted.get(row["partition"], 0) + 1
        assert row["number"] == counted[row["partition"]]


async def expected(billing: Billing, period: str = PERIOD) -> UsageExportReply:
    request = UsageExportRequest(period_key=period)
    return await rpc.call(billing.bus, subjects.RPC_USAGE_EXPORT, request, UsageExportReply)


async def newest(billing: Billing) -> int:
    return int(await billing.scalar("SELECT sum(newest) FROM feed_heads"))


def both(user_id: str, *numbers: int) -> list[Any]:
    return [fact(user_id, number) for number in numbers for fact in (call, telemetry)]


@pytest.mark.accept("8.feed.cursor")
async def test_it_resumes_behind_every_cursor(billing: Billing) -> None:
    await billing.given_folded(*both(ALICE, *range(9)), *both(BOB, *range(50, 54)))
    seen: list[FeedEntry] = []
    cursors: list[tuple[str | None, int]] = [(None, 0)]
    async for reply in pages(billing, limit=2):
        assert 1 <= len(reply.entries) <= 2
        seen += reply.entries
        cursors.append((reply.next, len(seen)))
    assert len({entry.id for entry in seen}) == len(seen) == 13
    # when more is settled
    await billing.given_folded(*both(ALICE, *range(9, 12)), *both(BOB, 54))
    for cursor, read in cursors:
        # then each cursor has what was behind it, and what is new
        ids = [entry.id for entry in seen[:read]]
        async for reply in pages(billing, cursor, limit=3):
            ids += [entry.id for entry in reply.entries]
        assert len(ids) == len(set(ids)) == 17
    # A page holds as much as is allowed, whatever is asked for.
    for limit, count in ((-1, 1), (0, 1), (10**9, 17)):
        reply = await page(billing, limit=limit)
        assert (len(reply.entries), reply.more) == (count, count < 17)
    assert MOST < 10**9
    # At its end the cursor stays, and nothing is given again.
    end = await page(billing, limit=MOST)
    assert await page(billing, end.next) == msgspec.structs.replace(end, entries=(), read=0)
    # An export ends where it began to; a period has its own entries alone.
    until = (await expected(billing)).end
    await billing.given_folded(*both(ALICE, 12), call(ALICE, 13, admitted_at_ms=AT_MS - MONTH_MS))
    exported = await page(billing, until=until, limit=MOST, period_key=PERIOD)
    assert (len(exported.entries), exported.more) == (17, False)
    other = await page(billing, until=until, limit=MOST, period_key="2020-01")
    assert (other.entries, other.read) == ((), 17)


@pytest.mark.accept("8.feed.cursor")
async def test_a_cursor_that_cannot_be_resumed_says_why(billing: Billing) -> None:
    await billing.given_folded(*both(ALICE, *range(6)))
    first = await page(billing, limit=2)

    async def refused(after: str) -> str:
        reply = await asked(billing, after=after)
        assert reply.refused is not None
        assert (reply.entries, reply.next) == ((), "")
        return reply.refused.reason

    for garbage in ("", "x", first.next[:-1], first.next + "A", first.next.swapcase(), "é\x00"):
        assert await refused(garbage) == "invalid"
    # A restore to an earlier time: what the cursor has read is not there yet.
    partition = subjects.partition_of(ALICE)
    end = await page(billing)
    kept = await billing.rows("SELECT * FROM usage_feed ORDER BY number")
    await billing.execute("UPDATE feed_heads SET newest = 1")
    assert (await page(billing, end.next)).entries == ()
    assert (await page(billing, first.next)).entries == ()
    # It is folded again, to the same.
    await billing.execute(f"UPDATE feed_heads SET newest = {len(kept)}")
    assert (await page(billing, end.next)).next == end.next
    # Or to something else: both the database and the stream were restored.
    await billing.execute("UPDATE usage_feed SET id = 'inv_other' WHERE number = 2")
    assert await refused(first.next) == "other_history"
    assert (await page(billing, end.next)).next == end.next
    # What is old is removed, at the next start at the latest.
    await billing.service.kill()
    day_ms = 24 * 3_600_000
    for number, age_days in ((4, 100), (5, 99)):
        await billing.execute(
            "UPDATE usage_feed SET settled_ms = :at_ms WHERE number <= :number",
            number=number,
            at_ms=AT_MS - age_days * day_ms,
        )
    await billing.execute(
        "UPDATE usage_feed SET settled_ms = :at_ms WHERE number <= 4",
        at_ms=AT_MS - 100 * day_ms,
    )
    await billing.service.start()
    removed = f"SELECT oldest FROM feed_heads WHERE partition = {partition}"
    await billing.until_scalar(removed, 5, "old entries to be removed")
    assert await refused(first.next) == "expired"
    reply = await page(billing)
    assert [entry.id for entry in reply.entries] == [row["id"] for row in kept[4:]]
    assert (await page(billing, end.next)).next == end.next
    # A period of which some may be missing is not exported.
    assert [
        found.refused and found.refused.reason
        for period in ("2000-01", "november", "0000-01", "9999-12")
        for found in [await expected(billing, period)]
    ] == ["removed", "invalid", "invalid", "invalid"]
    export = await expected(billing)
    assert (export.refused, export.entries, export.settled.requests) == (None, 2, 6)
    assert Counters() != export.settled


RESTORED = (
    *("checkpoints", "invocations", "usage_events", "billing_usage", "totals_due"),
    *("usage_feed", "usage_unsettled", "feed_heads"),
)


@pytest.mark.accept("8.feed.stream")
async def test_a_restored_database_states_the_same_again(billing: Billing) -> None:
    facts = [call(ALICE, number) for number in range(20)]
    facts += [telemetry(ALICE, number) for number in range(15)]
    random.Random(6).shuffle(facts)
    await billing.given_folded(*facts[:12])
    begun = await page(billing, limit=2)
    await billing.service.kill()
    for table in RESTORED:
        await billing.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")
    await billing.service.start()
    for start in range(12, len(facts), 6):
        await billing.given_folded(*facts[start : start + 6])
    stated = await billing.rows("SELECT * FROM usage_feed ORDER BY number")
    end = await page(billing)
    assert len(stated) == 15

    await billing.service.kill()
    for table in RESTORED:
        await billing.execute(f"TRUNCATE {table}")
        await billing.execute(f"INSERT INTO {table} TABLE kept_{table}")
    # In other batches than at first: all of it is there already.
    await billing.service.start()
    await billing.caught_up()
    assert await billing.rows("SELECT * FROM usage_feed ORDER BY number") == stated
    # So both cursors go on: what was read is not given again, what was not is.
    assert (await page(billing, end.next)).entries == ()
    ids = [entry.id for entry in begun.entries]
    ids += [entry.id for entry in (await page(billing, begun.next)).entries]
    assert sorted(ids) == sorted(row["id"] for row in stated)
