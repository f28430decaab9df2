"""A period is sealed once, at a position; what comes behind it does not count, whoever folds."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from webhost_billing.charging import Rules, load_prices
from webhost_billing.projection import UsageProjection
from webhost_billing.retention import Retention
from webhost_billing.seals import store as seals
from webhost_billing.seals.idle import IdlePartitions
from webhost_billing.verifying import Inspection
from webhost_contracts import subjects, wire
from webhost_contracts.entitlements import load_tiers
from webhost_contracts.events import Envelope, PeriodSealed
from webhost_contracts.events.base import by_name
from webhost_contracts.periods import day_key, next_period, previous_period, start_ms
from webhost_contracts.usage_rpc import (
    LateReportsReply,
    LateReportsRequest,
    VerifyReply,
    VerifyRequest,
)
from webhost_kit.bus.stream_watch import StreamWatch
from webhost_kit.clock import now_ms

from tests.integration.billing.conftest import ALICE, BOB, PERIOD, Billing, call, telemetry
from tests.integration.billing.test_rebuild import no_other_generations
from tests.integration.billing.test_tenants_word import neighbour
from tests.integration.billing.test_usage import counters
from tests.support import facts
from tests.support.deadline import eventually
from tests.support.harness import running

PAST, OPEN = previous_period(PERIOD), next_period(next_period(PERIOD))
PAST_MS = start_ms(PERIOD) - 1
OPEN_MS = start_ms(OPEN) + 12 * 3_600_000
NEVER_MS = 10 * 365 * 24 * 3_600_000


class Sealing(Billing):
    """Billing with a delay of the test's own, and the jobs that it runs now and then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.service.module = "tests.integration.billing.delayed"
        self.delay_ms = NEVER_MS
        self.service.env["TEST_SEAL_DELAY_MS"] = str(self.delay_ms)

    async def restart(self, delay_ms: int) -> None:
        self.delay_ms = delay_ms
        self.service.env["TEST_SEAL_DELAY_MS"] = str(delay_ms)
        await self.service.kill()
        await self.service.start()

    async def past_is_due_from_now_on(self) -> None:
        """Restart billing so that the next message seals what is past."""
        await self.restart(now_ms() + 1 - start_ms(PERIOD))

    async def idle(self) -> None:
        rules = Rules(load_prices(), 60_000, seal_delay_ms=self.delay_ms)
        await IdlePartitions(self.database, self.bus, rules).once()

    async def retention(self) -> None:
        await Retention(self.database, load_tiers()).once()

    async def sealed(self) -> list[tuple[Envelope, PeriodSealed]]:
        """The seals on the stream."""
        pattern = subjects.events_of_kind("period")
        found = await facts.on_stream(self.bus, subjects.EVENTS, pattern, by_name(PeriodSealed))
        return [(each, event) for each, event in found if isinstance(event, PeriodSealed)]

    async def until_sealed(self, *users: str) -> None:
        async def stated() -> bool:
            return {each.user_id for each, _ in await self.sealed()} >= {*users}

        await eventually(stated, f"the seals of {users}", seconds=30)

    async def late(self) -> list[tuple[str, str | None]]:
        request = wire.encode(LateReportsRequest())
        found = await self.bus.client.request(subjects.RPC_LATE_REPORTS, request, timeout=20)
        reply = wire.decode(found.data, LateReportsReply)
        return [(report.source, report.id) for report in reply.reports]

    async def problems(self) -> tuple[str, ...]:
        request = wire.encode(VerifyRequest())
        found = await self.bus.client.request(subjects.RPC_VERIFY, request, timeout=20)
        return wire.decode(found.data, VerifyReply).problems

    async def usage_rows(self) -> list[str]:
        """Usage byte for byte, without its generation."""
        found = await self.rows(
            "SELECT CAST(to_jsonb(u) - 'generation' AS text) AS line FROM billing_usage u"
            " WHERE generation = (SELECT live FROM generations) ORDER BY line"
        )
        return [row["line"] for row in found]

    async def seals(self) -> list[dict[str, Any]]:
        return await self.rows("SELECT * FROM partition_seals ORDER BY partition, through")


@pytest.fixture
async def billing(database_url: str, nats_account: str, tmp_path: Path) -> AsyncIterator[Sealing]:
    async with running(Sealing, database_url, nats_account, directory=tmp_path) as harness:
        await harness.service.start()
        yield harness


def past(user: str, number: int) -> tuple[tuple[str, Envelope], tuple[str, Envelope]]:
    """Both reports of a call in the last moment of the past period."""
    return (
        call(user, number, admitted_at_ms=PAST_MS),
        telemetry(user, number, timestamp_ms=PAST_MS),
    )


def opened(user: str, number: int) -> tuple[str, Envelope]:
    return call(user, number, admitted_at_ms=OPEN_MS)


async def until_there_is_a_seal(billing: Sealing) -> None:
    """Alice and Bob used something in the past; Alice's first report of an open period seals it."""
    await billing.given_folded(*past(ALICE, 1), past(ALICE, 2)[0], *past(BOB, 1))
    await billing.past_is_due_from_now_on()
    # The second half of a call comes with the message that seals: a message too late.
    await billing.given_folded(opened(ALICE, 10), past(ALICE, 2)[1], past(ALICE, 1)[0])
    await billing.until_sealed(ALICE)


@pytest.mark.accept("8.seals")
@pytest.mark.accept("8.verify")
@pytest.mark.accept("8.raw-events")
async def test_a_period_is_sealed_at_a_position(billing: Sealing) -> None:
    await put_on(billing, {ALICE: "gold", BOB: "enterprise"})
    await until_there_is_a_seal(billing)
    assert (await billing.usage(ALICE, PAST)).usage == counters(2, 1)
    # The second call waited for its Worker's report: with the seal it is settled as it is.
    stated = await billing.rows(
        f"SELECT id FROM usage_feed WHERE user_id = '{ALICE}' ORDER BY number"
    )
    assert [row["id"] for row in stated] == ["inv_1", "inv_2"]
    [(envelope, seal)] = await billing.sealed()
    assert (envelope.aggregate_id, envelope.version) == (f"{ALICE}.{PAST}", 1)
    assert (seal.invocations, seal.by_runtime.keys()) == (2, {"cloudflare"})
    assert seal.by_runtime["cloudflare"].requests == 2
    assert seal.by_runtime["cloudflare"].compute_ms == 140
    assert sorted(await billing.late()) == [("gateway", "inv_1"), ("worker", "inv_2")]

    # Bob's partition gets nothing: it is closed by the time of the others.
    await billing.idle()
    await billing.until_sealed(ALICE, BOB)
    await billing.given_folded(*past(BOB, 2), opened(BOB, 10))
    assert (await billing.usage(BOB, PAST)).usage == counters(1, 1)
    assert len(await billing.late()) == 4
    assert {row["through"] for row in await billing.seals()} >= {PAST}
    assert len(await billing.sealed()) == 2

    # What is known of single calls goes; what they came to stays, and nothing counts again.
    rows = await billing.usage_rows()
    await raw_events_are_kept_for_the_tiers_days(billing)
    left = await billing.rows("SELECT DISTINCT charged_period FROM invocations")
    assert [row["charged_period"] for row in left] == [OPEN]
    await billing.given_folded(*past(ALICE, 1), *past(BOB, 1), opened(BOB, 10))
    assert await billing.usage_rows() == rows
    assert await billing.problems() == ()
    await what_does_not_hold_together_is_named(billing)


async def what_does_not_hold_together_is_named(billing: Sealing) -> None:
    await damage(billing, ALICE)
    await damage(billing, ALICE, OPEN)
    for bucket in ("hour", "minute"):
        changed = await billing.execute(
            "UPDATE usage_series SET errors = errors + 1"
            f" WHERE bucket = '{bucket}' AND user_id = '{BOB}' AND start_ms >= {start_ms(OPEN)}"
        )
        assert changed == 1
    sealed, summed, days, minutes, hours = await billing.problems()
    assert sealed == f"{ALICE} {PAST} cloudflare: sealed with llm_tokens 10, usage has 17"
    assert summed == f"{ALICE} {OPEN} cloudflare: usage has llm_tokens 7, its invocations come to 0"
    assert days == f"{ALICE} {OPEN} cloudflare: usage has llm_tokens 7, its days come to 0"
    day = f"{BOB} agt_a dep_{BOB} {day_key(OPEN_MS)} cloudflare: the day has errors 0"
    assert hours == f"{day}, its hours come to 1"
    assert minutes == f"{day}, its minutes come to 1"
    exit_code, said = await webhost(billing, "billing", "verify", "--json")
    assert exit_code == 1
    assert json.loads(said)["problems"] == [sealed, summed, days, minutes, hours]
    await rows_that_are_not_there_are_named(billing)
    exit_code, said = await webhost(billing, "billing", "late", "--user", BOB)
    assert exit_code == 0
    assert [line.split()[5] for line in said.splitlines()[1:]] != []
    assert ALICE not in said

    name = f"billing.usage.{subjects.partition_of(ALICE)}"
    await billing.service.kill()
    await billing.execute(
        f"UPDATE checkpoints SET sequence = 1, message_id = NULL WHERE name = '{name}'"
    )
    await billing.execute("DELETE FROM periods")
    projection = UsageProjection(
        billing.database,
        billing.bus,
        StreamWatch(billing.bus, ()),
        Rules(load_prices(), 60_000),
        load_tiers(),
    )
    inspection = Inspection(billing.database, billing.bus, projection.projectors)
    *_, first, second, misplaced = (await inspection.verify(VerifyRequest())).problems
    await billing.execute(f"UPDATE checkpoints SET message_id = 'another' WHERE name = '{name}'")
    *_, diverged, _ = (await inspection.verify(VerifyRequest())).problems
    assert diverged.startswith(f"partition {subjects.partition_of(ALICE)}: ")
    assert {first, second} == {
        f"{user}.{PAST} was stated to be sealed, and is not" for user in (ALICE, BOB)
    }
    assert "is closed through" in misplaced


async def rows_that_are_not_there_are_named(billing: Sealing) -> None:
    """Bob's usage is gone; of Alice's open period its parts, and somebody else's call is there."""
    before = await billing.problems()
    live = "generation = (SELECT live FROM generations)"
    await billing.execute("CREATE TABLE kept AS SELECT * FROM billing_usage")
    await billing.execute(f"DELETE FROM billing_usage WHERE user_id = '{BOB}' AND {live}")
    lost = {
        f"{BOB} {period} cloudflare: {said}"
        for period, said in (
            (PAST, "sealed with a row, usage has nothing"),
            (OPEN, "usage has nothing, its invocations come to a row"),
            (OPEN, "usage has nothing, its days come to a row"),
        )
    }
    assert {*await billing.problems()} - {*before} == lost
    await billing.execute(f"INSERT INTO billing_usage SELECT * FROM kept WHERE user_id = '{BOB}'")
    assert await billing.problems() == before
    foreign = f"UPDATE billing_usage SET user_id = :to WHERE user_id = :user AND {live}"
    await billing.execute(foreign, user=BOB, to="usr_x")
    assert {*await billing.problems()} - {*before} - lost == {
        f"usr_x {PAST} cloudflare: sealed with nothing, usage has a row",
        f"usr_x {OPEN} cloudflare: usage has a row, its invocations come to nothing",
        f"usr_x {OPEN} cloudflare: usage has a row, its days come to nothing",
    }
    await billing.execute(foreign, user="usr_x", to=BOB)
    for change in (1, -1):
        await billing.execute(
            f"UPDATE billing_usage SET invocations = invocations + {change}"
            f" WHERE user_id = '{BOB}' AND {live}"
        )
        assert len(await billing.problems()) - len(before) == (3 if change == 1 else 0)


async def put_on(billing: Sealing, tiers: dict[str, str]) -> None:
    for user, tier in tiers.items():
        await billing.execute(
            f"INSERT INTO accounts (user_id, version, tier) VALUES ('{user}', 1, '{tier}')"
        )


async def raw_events_are_kept_for_the_tiers_days(billing: Sealing) -> None:
    """An enterprise's for 90 days; of an unknown tier for 7, as of a free one."""
    await billing.execute(
        "UPDATE usage_events SET at_ms = :at_ms WHERE at_ms < :now",
        at_ms=now_ms() - 8 * 24 * 3_600_000,
        now=now_ms(),
    )
    await billing.retention()
    left = await billing.rows("SELECT user_id, count(*) FROM usage_events GROUP BY 1")
    assert {row["user_id"]: row["count"] for row in left} == {ALICE: 1, BOB: 2}
    # To the minute.
    edge = "UPDATE usage_events SET at_ms = :at_ms WHERE user_id = :user AND at_ms < :open"
    for user, days, minute, kept in (
        (ALICE, 7, -1, 1),
        (ALICE, 7, 1, 0),
        (BOB, 90, -1, 2),
        (BOB, 90, 1, 1),
    ):
        at_ms = now_ms() - days * 24 * 3_600_000 - minute * 60_000
        open_ms = OPEN_MS + 1 if user == ALICE else OPEN_MS
        await billing.execute(edge, user=user, at_ms=at_ms, open=open_ms)
        await billing.retention()
        count = "SELECT count(*) FROM usage_events WHERE user_id = :user"
        assert await billing.scalar(count, user=user) == kept


async def webhost(billing: Sealing, *arguments: str) -> tuple[int | None, str]:
    """Run a command on this test's bus; return its exit code and what it printed."""
    environment = {**os.environ, "NATS_URL": billing.nats_url}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhost_cli", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


@pytest.mark.accept("8.seals")
@pytest.mark.parametrize(
    "point", [pytest.param("billing.sealing", marks=pytest.mark.long), "billing.sealed"]
)
async def test_a_kill_at_the_seal_states_it_once(billing: Sealing, point: str) -> None:
    await billing.given_folded(*past(ALICE, 1))
    await billing.past_is_due_from_now_on()
    billing.service.crash_file.write_text(point)
    await billing.given_usage(opened(ALICE, 10), past(ALICE, 2)[0])
    await billing.service.died()
    assert await billing.sealed() == []
    assert await billing.rows("SELECT 1 FROM periods") == []
    await billing.service.start()
    await billing.caught_up()
    await billing.until_sealed(ALICE)
    [(_, seal)] = await billing.sealed()
    assert (seal.invocations, seal.by_runtime["cloudflare"].llm_tokens) == (1, 10)
    assert (await billing.usage(ALICE, PAST)).usage == counters(1, 1)
    assert await billing.late() == [("gateway", "inv_2")]
    assert await billing.problems() == ()


TABLES = (
    *("invocations", "usage_events", "billing_usage", "totals_due", "checkpoints", "generations"),
    *("events", "outbox", "periods", "sealed_usage", "partition_seals", "late_reports"),
    *("usage_series", "usage_feed", "usage_unsettled", "feed_heads"),
)


@pytest.mark.accept("8.seals.restore")
async def test_after_a_restore_the_position_decides_and_not_the_clock(billing: Sealing) -> None:
    await billing.given_folded(*past(ALICE, 1))
    for table in TABLES:
        await billing.execute(f"CREATE TABLE backup_{table} AS SELECT * FROM {table}")
    await billing.given_folded(past(ALICE, 2)[0])
    await billing.past_is_due_from_now_on()
    await billing.given_folded(opened(ALICE, 10), *past(ALICE, 3))
    await billing.until_sealed(ALICE)
    before = await billing.usage_rows(), await billing.late(), await billing.sealed()
    seal = [row for row in await billing.seals() if row["through"] == PAST]

    await billing.service.kill()
    for table in TABLES:
        await billing.execute(f"TRUNCATE {table}")
        await billing.execute(
            f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM backup_{table}"
        )
    # By this process's own delay nothing is ever sealed.
    await billing.restart(NEVER_MS)
    await billing.caught_up()
    assert (await billing.usage_rows(), await billing.late(), await billing.sealed()) == before
    assert [row for row in await billing.seals() if row["through"] == PAST] == seal
    await billing.given_folded(*past(ALICE, 4), opened(ALICE, 11))
    assert (await billing.usage(ALICE, PAST)).usage == counters(2, 1)
    assert await billing.problems() == ()
    await a_replay_of_the_stream_counts_nothing_again(billing)


async def a_replay_of_the_stream_counts_nothing_again(billing: Sealing) -> None:
    """Neither what was counted before the seal, nor is it late now; its dedupe rows are gone."""
    before = await billing.usage_rows(), await billing.late()
    await billing.service.kill()
    await billing.execute(f"DELETE FROM invocations WHERE charged_period = '{PAST}'")
    await billing.execute(
        "UPDATE checkpoints SET sequence = 0, stream_created_at = '', message_id = NULL,"
        " epoch = epoch + 1 WHERE name LIKE 'billing.usage.%'"
    )
    await billing.service.start()
    await billing.caught_up()
    assert (await billing.usage_rows(), await billing.late()) == before


@pytest.mark.accept("8.rebuild.sealed")
async def test_a_rebuild_reaches_back_to_the_seals(billing: Sealing) -> None:
    await until_there_is_a_seal(billing)
    await billing.idle()
    await billing.until_sealed(BOB)
    await billing.given_folded(opened(BOB, 10), past(BOB, 2)[0])
    seals = await billing.sealed()
    await billing.retention()
    rows, late = await billing.usage_rows(), await billing.late()

    # The whole stream, by a process to which no period would be due: the positions decide.
    await given_parked(billing, past(ALICE, 9)[0])
    await billing.restart(NEVER_MS)
    late = sorted([*late, ("gateway", "inv_9")])

    async def replayed() -> bool:
        return sorted(await billing.late()) == late

    await eventually(replayed, "what was parked to be late", seconds=30)
    await damage(billing, ALICE)
    last = (await billing.rebuild())[-1]
    assert (last.swapped, len(last.differences), last.sealed) == (True, 1, ())
    assert await billing.usage_rows() == rows

    # The beginning is gone: what is sealed is carried over, and what is open is rebuilt.
    await billing.bus.js.purge_stream(subjects.USAGE, seq=seals[0][1].sequence + 1)
    # Also a row that was changed by hand: it is as it was sealed again.
    await damage(billing, ALICE)
    assert len(await billing.problems()) == 1
    last = (await billing.rebuild())[-1]
    assert (last.swapped, len(last.differences), len(last.sealed)) == (True, 1, 1)
    assert await billing.usage_rows() == rows
    assert "its seals stand" in str((await billing.rebuild(period_key=PAST))[-1].refused)
    assert (sorted(await billing.late()), await billing.sealed()) == (late, seals)
    assert await billing.problems() == ()
    await no_other_generations(billing)


async def given_parked(billing: Sealing, fact: tuple[str, Envelope]) -> None:
    """A report that could not be folded before its period was sealed, and now can."""
    subject, envelope = fact
    await billing.execute(
        "INSERT INTO parked_events (projection, sequence, index, subject, aggregate_id, version,"
        " recorded_at_ms, parked_at_ms, reason, body)"
        " VALUES (:projection, 1, 9, :subject, :id, 1, :at_ms, :at_ms, 'of old', :body)",
        at_ms=now_ms(),
        projection=f"billing.usage.{subjects.partition_of(ALICE)}",
        subject=subject,
        id=envelope.aggregate_id,
        body=wire.encode(envelope),
    )


async def damage(billing: Sealing, user: str, period: str = PAST) -> None:
    changed = await billing.execute(
        "UPDATE billing_usage SET llm_tokens = llm_tokens + 7"
        f" WHERE user_id = '{user}' AND period_key = '{period}'"
        " AND generation = (SELECT live FROM generations)"
    )
    assert changed == 1


@pytest.mark.accept("8.seals")
async def test_an_idle_partition_is_closed_when_it_is_folded_and_with_all_of_its_users(
    billing: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user at a time, one of whom has reached limits; and a partition that is behind."""
    monkeypatch.setattr(seals, "USERS_PER_STATEMENT", 1)
    other = neighbour(ALICE, same=True)
    much = telemetry(ALICE, 1, timestamp_ms=PAST_MS, llm_tokens=10**9)
    await billing.given_folded(much, past(other, 1)[0])
    await billing.service.kill()
    await billing.given_usage(past(BOB, 1)[0])
    billing.delay_ms = now_ms() - start_ms(PERIOD) - 1_000
    await billing.idle()
    closed = {row["partition"] for row in await billing.seals() if row["through"] == PAST}
    assert closed == {*range(subjects.PARTITIONS)} - {subjects.partition_of(BOB)}
    stated = await billing.rows(
        "SELECT aggregate_id, version FROM events WHERE type = 'period.sealed.v1'"
    )
    assert {row["aggregate_id"]: row["version"] for row in stated} == {
        f"{ALICE}.{PAST}": 4,
        f"{other}.{PAST}": 1,
    }
    kept = "SELECT cardinality(reached) FROM periods WHERE user_id = :user"
    assert await billing.scalar(kept, user=ALICE) == 3
    # Nothing is forgotten before every partition has closed the period.
    assert await Retention(billing.database, load_tiers()).forget_invocations() == 0
