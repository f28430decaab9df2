"""A rebuild is correct: it reports what differs, fixes it, and equals the fold byte for byte."""

import asyncio
import contextlib
import random
from pathlib import Path

import psycopg
import pytest
from webhost_billing import statements
from webhost_billing.partitions import checkpoint_name
from webhost_contracts import ids, subjects
from webhost_contracts.periods import previous_period, start_ms
from webhost_contracts.usage_rpc import Difference

from tests.integration.billing.conftest import ALICE, AT_MS, BOB, PERIOD, Billing, call, telemetry
from tests.integration.billing.test_usage import counters, until_totals
from tests.support.deadline import eventually

MONTH_MS = 31 * 24 * 3600 * 1000


async def some_usage(billing: Billing) -> None:
    """Alice: 20 calls, 15 of them reported, 1 with a time in another period; Bob: 3 reports."""
    facts = [call(ALICE, number) for number in range(20)]
    facts += [telemetry(ALICE, number) for number in range(14)]
    facts += [telemetry(BOB, number, agent_id="agt_b") for number in range(3)]
    random.Random(9).shuffle(facts)
    # Its charge moves from the period that the Worker named to that of the admission.
    moving = [telemetry(ALICE, 14, timestamp_ms=AT_MS - MONTH_MS)]
    facts = [fact for fact in facts if fact[1].aggregate_id != "inv_14"]
    await billing.given_folded(*moving, *facts[:20])
    await billing.given_folded(*facts[20:], call(ALICE, 14), telemetry(ALICE, 3), call(ALICE, 4))


@pytest.mark.accept("8")
async def test_a_corrupted_row_is_named_and_fixed(billing: Billing) -> None:
    await some_usage(billing)
    before = await billing.folded()
    assert (await billing.usage(ALICE)).usage == counters(20, 15)
    await until_totals(billing, ALICE, 150, 15 * 40 + 5 * 100)
    clean = (await billing.rebuild(dry_run=True))[-1]
    assert (clean.done, clean.swapped, clean.differences) == (True, False, ())
    await no_other_generations(billing)

    changed = await billing.execute(
        f"UPDATE billing_usage SET llm_tokens = llm_tokens + 7 WHERE user_id = '{ALICE}'"
        f" AND period_key = '{PERIOD}'"
    )
    assert changed == 1
    corrupted = await billing.folded()
    lines = await billing.rebuild(dry_run=True)
    [difference] = lines[-1].differences
    assert isinstance(difference, Difference)
    assert (difference.user_id, difference.period_key) == (ALICE, PERIOD)
    assert difference.live is not None
    assert difference.rebuilt is not None
    assert (difference.live.llm_tokens, difference.rebuilt.llm_tokens) == (157, 150)
    assert lines[-1].processed == lines[-1].total > 0
    assert await billing.folded() == corrupted

    mended = (await billing.rebuild())[-1]
    assert (mended.done, mended.swapped, mended.differences) == (True, True, (difference,))
    assert await billing.folded() == before
    # The bucket held these numbers before, of the generation that is gone.
    await until_totals(billing, ALICE, 150, 15 * 40 + 5 * 100, generation=2)
    await no_other_generations(billing)

    await billing.given_folded(call(ALICE, 100), telemetry(ALICE, 100), telemetry(ALICE, 3))
    assert (await billing.usage(ALICE)).usage == counters(21, 16)
    assert (await billing.rebuild(dry_run=True))[-1].differences == ()


async def no_other_generations(billing: Billing) -> None:
    async def gone() -> bool:
        found = {
            row["generation"]
            for table in ("invocations", "usage_events", "billing_usage", "usage_series")
            for row in await billing.rows(f"SELECT DISTINCT generation FROM {table}")
        }
        return found == {await billing.scalar("SELECT live FROM generations")}

    await eventually(gone, "other generations to be gone")


async def test_missing_and_foreign_rows_are_differences_too(billing: Billing) -> None:
    await some_usage(billing)
    before = await billing.folded()
    await billing.execute(f"DELETE FROM billing_usage WHERE user_id = '{BOB}'")
    await billing.execute(
        "INSERT INTO billing_usage SELECT generation, partition, 'usr_x', period_key,"
        " runtime_provider, invocations, requests, llm_tokens, compute_ms, tool_calls, errors,"
        " cost_picodollars, updated_at_ms FROM billing_usage"
        f" WHERE user_id = '{ALICE}' AND period_key = '{PERIOD}'"
    )
    found = (await billing.rebuild())[-1].differences
    assert {(one.user_id, one.live is None, one.rebuilt is None) for one in found} == {
        (BOB, True, False),
        ("usr_x", False, True),
    }
    assert await billing.folded() == before


async def test_nothing_can_be_rebuilt_too(billing: Billing) -> None:
    for dry_run in (True, False, True):
        last = (await billing.rebuild(dry_run=dry_run))[-1]
        assert (last.done, last.swapped, last.processed) == (True, not dry_run, 0)
    await billing.given_folded(call(ALICE, 1))
    assert (await billing.usage(ALICE)).usage == counters(1, 0)


async def test_a_rebuild_beside_live_folding(billing: Billing) -> None:
    await some_usage(billing)
    facts = [call(ALICE, number) for number in range(1000, 1200)]
    facts += [telemetry(ALICE, number) for number in range(1000, 1200)]

    async def rebuilds() -> list[object]:
        return [(await billing.rebuild())[-1].differences for _ in range(3)]

    _, differences = await asyncio.gather(billing.given_usage(*facts), rebuilds())
    assert differences == [(), (), ()]
    await billing.caught_up()
    assert (await billing.usage(ALICE)).usage == counters(220, 215)
    assert (await billing.rebuild(dry_run=True))[-1].differences == ()


async def test_a_swap_waits_for_the_folds_that_are_under_way(billing: Billing) -> None:
    await some_usage(billing)

    async def waits() -> bool:
        return bool(
            await billing.rows(
                "SELECT 1 FROM pg_locks WHERE relation = 'generations'::regclass AND NOT granted"
                " AND mode = 'ExclusiveLock'"
            )
        )

    with psycopg.connect(billing.dsn) as fold:
        fold.execute(str(statements.HOLD_GENERATION).encode())
        rebuild = asyncio.create_task(billing.rebuild())
        await eventually(waits, "the swap to wait", seconds=15)
        assert await billing.scalar("SELECT live FROM generations") == 1
    assert (await rebuild)[-1].swapped
    assert await billing.scalar("SELECT live FROM generations") == 2


async def test_only_one_rebuild_runs_at_a_time(billing: Billing) -> None:
    await some_usage(billing)
    with psycopg.connect(billing.dsn) as another:
        another.execute(
            "SELECT pg_advisory_lock(hashtext('billing rebuild'), hashtext(current_schema()))"
        )
        assert "running already" in str((await billing.rebuild())[-1].refused)
        # Closed, the session may keep its lock for a moment.
        another.execute("SELECT pg_advisory_unlock_all()")
    assert (await billing.rebuild())[-1].swapped


def rebuilding(billing: Billing) -> list[int]:
    """The processes that fold for a rebuild of this test's billing."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command, environment = ((process / name).read_text() for name in ("cmdline", "environ"))
            if "webhost_billing.rebuild" in command and billing.dsn in environment:
                found.append(int(process.name))
    return found


async def no_more_rebuilding(billing: Billing) -> None:
    async def gone() -> bool:
        return not rebuilding(billing)

    await eventually(gone, "the processes of the rebuild to end")


@pytest.mark.parametrize("point", ["rebuild.progress", "rebuild.swapping"])
@pytest.mark.accept("8.rebuild.resumed")
async def test_a_rebuild_that_dies_is_resumed(billing: Billing, tmp_path: Path, point: str) -> None:
    await some_usage(billing)
    before = await billing.folded()
    (tmp_path / "crash").write_text(point)
    inbox = billing.bus.client.new_inbox()
    await billing.bus.client.publish(subjects.RPC_REBUILD, b"{}", reply=inbox)
    assert billing.service.process is not None
    async with asyncio.timeout(20):
        await billing.service.process.wait()
    assert await billing.folded() == before
    await no_more_rebuilding(billing)
    await billing.service.start()
    assert await billing.folded() == before
    await billing.given_folded(call(ALICE, 50))
    before = await billing.folded()
    first, *_, last = await billing.rebuild()
    total = (await billing.bus.js.stream_info(subjects.USAGE)).state.messages
    assert 0 < first.resumed < total
    assert (last.swapped, last.differences, last.processed) == (True, (), total)
    assert await billing.folded() == before
    await no_other_generations(billing)


@pytest.mark.long
async def test_a_rebuild_that_nobody_takes_up_again_is_removed(
    billing: Billing, tmp_path: Path
) -> None:
    await some_usage(billing)
    for another in ({"user_id": BOB}, {"dry_run": True}):
        (tmp_path / "crash").write_text("rebuild.folded")
        assert "died" in str((await billing.rebuild())[-1].refused)
        if "dry_run" in another:
            week_ms = 7 * 24 * 3600 * 1000
            await billing.execute(f"UPDATE rebuilds SET begun_at_ms = begun_at_ms - {week_ms}")
            await billing.service.kill()
            await billing.service.start()
            await no_other_generations(billing)
        first, *_, last = await billing.rebuild(**another)
        assert (first.resumed, last.done) == (0, True)
        await no_other_generations(billing)


@pytest.mark.accept("8.rebuild.resumed")
async def test_a_rebuild_whose_process_dies_is_resumed(billing: Billing, tmp_path: Path) -> None:
    await some_usage(billing)
    before = await billing.folded()
    (tmp_path / "crash").write_text("rebuild.folded")
    last = (await billing.rebuild())[-1]
    assert "process of the rebuild died; the same rebuild again goes on" in str(last.refused)
    assert await billing.folded() == before
    await no_more_rebuilding(billing)
    # By other rules, or of another stream, it would begin anew.
    for column in ("rules", "stream_created_at"):
        await billing.execute(f"UPDATE rebuilds SET {column} = 'another'")
        (tmp_path / "crash").write_text("rebuild.folded")
        first, *_ = await billing.rebuild()
        assert first.resumed == 0
        await no_more_rebuilding(billing)
    other, *_, last = await billing.rebuild(dry_run=True, user_id=BOB)
    assert (other.resumed, last.done) == (0, True)
    dry, *_, last = await billing.rebuild(dry_run=True)
    assert (last.done, last.swapped, last.differences) == (True, False, ())
    # A dry run leaves what it found, and all that it folded itself.
    first, *_, last = await billing.rebuild()
    assert 0 < dry.resumed < first.resumed == last.processed
    assert (last.swapped, last.differences) == (True, ())
    assert await billing.folded() == before
    await no_other_generations(billing)


@pytest.mark.accept("A11")
async def test_every_partition_is_rebuilt(billing: Billing) -> None:
    users = [ids.user_id("test", f"user {number}") for number in range(60)]
    assert len({subjects.partition_of(user) for user in users}) == subjects.PARTITIONS
    facts = [call(user, number) for user in users for number in range(3)]
    facts += [telemetry(user, number) for user in users for number in range(2)]
    random.Random(4).shuffle(facts)
    await billing.given_folded(*facts)
    before = await billing.folded()
    last = (await billing.rebuild())[-1]
    assert (last.swapped, last.differences) == (True, ())
    assert last.processed == (await billing.bus.js.stream_info(subjects.USAGE)).state.messages
    assert await billing.folded() == before


async def test_a_partition_may_stand_beyond_its_last_message(billing: Billing) -> None:
    await billing.given_folded(call(BOB, 1), call(ALICE, 1), call(ALICE, 2))
    last = (await billing.bus.js.stream_info(subjects.USAGE)).state.last_seq
    name = checkpoint_name(subjects.partition_of(BOB))
    moved = await billing.execute(
        f"UPDATE checkpoints SET sequence = {last}, message_id = NULL WHERE name = '{name}'"
    )
    assert moved == 1
    assert (await billing.rebuild())[-1].swapped
    await billing.given_folded(call(BOB, 2))
    assert (await billing.usage(BOB)).usage == counters(2, 0)


async def test_what_cannot_be_rebuilt_is_refused(billing: Billing) -> None:
    await some_usage(billing)
    before = await billing.folded()
    unknown = ({"user_id": "alice"}, {"period_key": "0000-01"}, {"period_key": "9999-12"})
    for request in unknown:
        assert " is not a " in str((await billing.rebuild(**request))[-1].refused)
    await billing.bus.js.delete_msg(subjects.USAGE, 5)
    assert "lacks 1" in str((await billing.rebuild())[-1].refused)
    await billing.bus.js.purge_stream(subjects.USAGE, seq=10)
    refused = str((await billing.rebuild())[-1].refused)
    assert f"begins at 10: it lacks the beginning of {PERIOD}, which is not sealed" in refused
    assert await billing.folded() == before
    # Who used nothing lacks nothing.
    user = ids.user_id("test", "nobody")
    assert (await billing.rebuild(user_id=user))[-1].swapped
    assert await billing.folded() == before


async def until_corrected(billing: Billing, corrections: int) -> None:
    """No message came since: the gateways have to take these totals all the same."""

    async def put() -> bool:
        found = await billing.totals(ALICE)
        return found is not None and (found.correction, found.tokens) == (corrections, 150)

    await eventually(put, f"the totals of correction {corrections}")


async def damaged(billing: Billing) -> None:
    changed = await billing.execute(
        "UPDATE billing_usage SET llm_tokens = llm_tokens + 7 WHERE invocations > 0"
    )
    assert changed == 3


@pytest.mark.accept("8.rebuild.scopes")
async def test_one_user_or_one_period_is_rebuilt_alone(billing: Billing) -> None:
    await some_usage(billing)
    last_month = previous_period(PERIOD)
    # The raw events of last month are still kept.
    await billing.execute(
        f"INSERT INTO accounts (user_id, version, tier) VALUES ('{ALICE}', 1, 'enterprise')"
    )
    await billing.given_folded(
        call(ALICE, 70, admitted_at_ms=start_ms(PERIOD) - 1),
        telemetry(ALICE, 70, timestamp_ms=start_ms(PERIOD) - 1),
    )
    rows = {(ALICE, PERIOD): 150, (ALICE, last_month): 10, (BOB, PERIOD): 30}
    whole = await billing.folded()
    await until_totals(billing, ALICE, 150, 15 * 40 + 5 * 100)
    scopes = (
        {"user_id": ALICE},
        {"period_key": PERIOD},
        {"user_id": ALICE, "period_key": last_month},
    )
    for corrections, scope in enumerate(scopes, start=1):
        await damaged(billing)
        if corrections == 1:
            damaged_rows = await billing.folded()
            dry = (await billing.rebuild(dry_run=True, **scope))[-1]
            assert len(dry.differences) == 2
            assert await billing.folded() == damaged_rows
        last = (await billing.rebuild(**scope))[-1]
        wanted = {
            (user, period): tokens
            for (user, period), tokens in rows.items()
            if scope.get("user_id", user) == user and scope.get("period_key", period) == period
        }
        assert {
            (one.user_id, one.period_key): one.rebuilt and one.rebuilt.llm_tokens
            for one in last.differences
        } == wanted
        for (user, period), tokens in rows.items():
            here = (await billing.usage(user, period)).usage.llm_tokens
            assert here == tokens + (0 if (user, period) in wanted else 7)
        if (ALICE, PERIOD) in wanted:
            await until_corrected(billing, corrections)
        await no_other_generations(billing)
        await billing.execute(
            "UPDATE billing_usage SET llm_tokens = llm_tokens - 7 WHERE invocations > 0"
            " AND NOT (user_id, period_key) = ANY("
            "SELECT * FROM unnest(CAST(:users AS text[]), CAST(:periods AS text[])))",
            users=[user for user, _ in wanted],
            periods=[period for _, period in wanted],
        )
        assert await billing.folded() == whole
    assert await billing.scalar("SELECT live FROM generations") == 1
    await what_is_not_in_the_scope_stays_as_it_is(billing, last_month)
    await billing.given_folded(call(ALICE, 71), telemetry(ALICE, 71), telemetry(ALICE, 3))
    assert (await billing.usage(ALICE)).usage == counters(21, 16)


async def what_is_not_in_the_scope_stays_as_it_is(billing: Billing, last_month: str) -> None:
    """Whichever table it is in; and a call that was charged elsewhere is not counted twice."""
    whole = await billing.folded()
    out_of_scope = {
        "usage_series": f"start_ms < {start_ms(PERIOD)} OR user_id = '{BOB}'",
        "usage_events": f"at_ms < {start_ms(PERIOD)} OR user_id = '{BOB}'",
        "invocations": f"charged_period = '{last_month}' OR user_id = '{BOB}'",
    }
    for change in ("+", "-"):
        for table, where in out_of_scope.items():
            await billing.execute(
                f"UPDATE {table} SET tool_calls = tool_calls {change} 1 WHERE {where}"
            )
        if change == "+":
            before = await billing.folded()
            assert before != whole
            assert (await billing.rebuild(user_id=ALICE, period_key=PERIOD))[-1].swapped
            assert await billing.folded() == before
    assert await billing.folded() == whole
    moved = "UPDATE invocations SET charged_period = :to WHERE invocation_id = 'inv_14'"
    await billing.execute(moved, to=last_month)
    refused = (await billing.rebuild(period_key=PERIOD))[-1].refused
    assert "1 calls belong to another period" in str(refused)
    await billing.execute(moved, to=PERIOD)
    assert await billing.folded() == whole
