"""Usage, totals and tiers, folded from real facts by the real process."""

import asyncio
import random

import pytest
from webhost_contracts import subjects, wire
from webhost_contracts.events import Envelope, TierChanged
from webhost_contracts.rpc import SetTierReply, SetTierRequest
from webhost_contracts.totals import Totals
from webhost_contracts.usage_rpc import Counters, RecentEventsReply, RecentEventsRequest
from webhost_kit.bus import rpc

from tests.integration.billing.conftest import ALICE, AT_MS, BOB, PERIOD, Billing, call, telemetry
from tests.support.deadline import eventually

PICO_PER_REQUEST = 1_000_000
PICO_PER_MS = 20_000


def counters(calls: int, reported: int) -> Counters:
    """What this many calls, of which so many were also reported, come to."""
    compute_ms = reported * 40 + (calls - reported) * 100
    return Counters(
        requests=calls,
        llm_tokens=reported * 10,
        compute_ms=compute_ms,
        tool_calls=reported * 2,
        cost_picodollars=calls * PICO_PER_REQUEST + compute_ms * PICO_PER_MS,
    )


async def until_totals(
    billing: Billing, user_id: str, tokens: int, compute_ms: int, *, generation: int = 1
) -> Totals:
    """Return the totals once they are these, of this generation or a later one."""
    found: Totals | None = None

    async def there() -> bool:
        nonlocal found
        found = await billing.totals(user_id)
        return (
            found is not None
            and found.generation >= generation
            and (found.tokens, found.compute_ms) == (tokens, compute_ms)
        )

    await eventually(there, f"totals of {tokens} tokens and {compute_ms} ms")
    assert found is not None
    return found


async def test_interleaved_facts_count_once(billing: Billing) -> None:
    facts = [call(ALICE, number) for number in range(30)]
    facts += [telemetry(ALICE, number) for number in range(20)]
    facts += [call(BOB, number) for number in range(5)]
    again = [call(ALICE, number) for number in range(0, 30, 3)]
    # The same report with other numbers: it came later, so it changes nothing.
    again += [telemetry(ALICE, number, llm_tokens=999) for number in range(0, 20, 4)]
    random.Random(7).shuffle(facts)
    await billing.given_folded(*facts, *again)

    alice, bob = await billing.usage(ALICE), await billing.usage(BOB)
    assert alice.usage == counters(30, 20)
    assert alice.by_runtime == {"cloudflare": counters(30, 20)}
    assert alice.updated_at_ms == AT_MS + 5
    assert bob.usage == counters(5, 0)
    nothing = await billing.usage(BOB, "2020-01")
    assert (nothing.usage, nothing.by_runtime, nothing.updated_at_ms) == (Counters(), {}, 0)
    await until_totals(billing, ALICE, 200, 20 * 40 + 10 * 100)
    await until_totals(billing, BOB, 0, 500)


@pytest.mark.accept("3")
async def test_two_calls_with_one_trace_id_count_twice(billing: Billing) -> None:
    await billing.given_folded(
        call(ALICE, 1), call(ALICE, 2), telemetry(ALICE, 1), telemetry(ALICE, 2)
    )
    assert (await billing.usage(ALICE)).usage == counters(2, 2)


async def test_recent_events_are_the_merged_ones(billing: Billing) -> None:
    await billing.given_folded(
        call(ALICE, 1, admitted_at_ms=AT_MS - 1, key_id="key_1"),
        telemetry(ALICE, 1),
        call(ALICE, 2, errors=1, error_class="runtime", outcome="failed"),
        call(BOB, 3),
    )

    async def recent(**request: object) -> RecentEventsReply:
        asked = RecentEventsRequest(user_id=ALICE, **request)  # type: ignore[arg-type]
        return await rpc.call(billing.bus, subjects.RPC_RECENT_EVENTS, asked, RecentEventsReply)

    failed, merged = (await recent()).events
    assert (merged.source, failed.source) == ("both", "gateway")
    assert (merged.invocation_id, merged.event_id) == ("inv_1", "inv_1")
    assert (merged.key_id, failed.key_id) == ("key_1", None)
    assert merged.provider == {"model": "m"}
    assert merged.counters.llm_tokens == 10
    assert (failed.error_class, failed.counters.errors) == ("runtime", 1)
    assert (await recent(errors_only=True)).events == (failed,)
    assert (await recent(limit=1)).events == (failed,)
    assert (await recent(since_ms=AT_MS)).events == (failed,)
    assert (await recent(agent_id="agt_b")).events == ()


async def test_a_kill_in_the_middle_changes_no_total(billing: Billing) -> None:
    facts = [call(ALICE, number) for number in range(200)]
    facts += [telemetry(ALICE, number) for number in range(200)]
    random.Random(8).shuffle(facts)

    async def kill() -> None:
        for _ in range(2):
            await billing.caught_up()
            await billing.service.kill()
            await billing.service.start()

    await asyncio.gather(billing.given_usage(*facts), kill())
    await billing.caught_up()
    assert (await billing.usage(ALICE)).usage == counters(200, 200)
    await until_totals(billing, ALICE, 2000, 8000)


async def test_totals_that_were_lost_are_put_again_at_start(billing: Billing) -> None:
    await billing.given_folded(call(ALICE, 1))
    await until_totals(billing, ALICE, 0, 100)
    await billing.service.kill()
    bucket = await billing.bus.js.key_value(subjects.TOTALS_BUCKET)
    await bucket.purge(subjects.totals_key(ALICE, PERIOD))
    assert await billing.totals(ALICE) is None
    await billing.service.start()

    await until_totals(billing, ALICE, 0, 100)


async def test_totals_are_put_again_into_a_bucket_that_was_made_again(billing: Billing) -> None:
    await billing.given_folded(call(ALICE, 1), call(BOB, 2))
    await until_totals(billing, ALICE, 0, 100)
    await until_totals(billing, BOB, 0, 100)
    await billing.bus.js.delete_stream(subjects.TOTALS_STREAM)

    async def says_so() -> bool:
        said = (await billing.service.complaints()).get("streams", "")
        return f"{subjects.TOTALS_STREAM} is missing" in said

    await eventually(says_so, "billing to say what is missing")
    await billing.service.until_ready()
    await until_totals(billing, ALICE, 0, 100)
    await billing.given_folded(call(BOB, 3))
    await until_totals(billing, BOB, 0, 200)


async def test_an_operator_sets_a_tier(billing: Billing) -> None:
    async def put(tier: str, user_id: str = ALICE) -> SetTierReply:
        request = SetTierRequest(user_id=user_id, tier=tier, operator="kim")
        return await rpc.call(billing.bus, subjects.RPC_SET_TIER, request, SetTierReply)

    assert await put("pro") == SetTierReply(tier="pro")
    assert await put("pro") == SetTierReply(tier="pro")
    assert await put("starter") == SetTierReply(tier="starter")
    assert "no tier 'gold'" in str((await put("gold")).refused)
    assert (await put("pro", "kim")).refused is not None

    stated: list[tuple[int, str, str]] = []

    async def there() -> bool:
        info = await billing.bus.js.stream_info(subjects.EVENTS)
        stated.clear()
        for sequence in range(1, info.state.last_seq + 1):
            message = await billing.bus.js.get_msg(subjects.EVENTS, sequence, direct=True)
            assert message.subject == subjects.event(ALICE, "account", ALICE)
            stored = wire.decode(message.data, Envelope)
            fact = wire.decode(bytes(stored.data), TierChanged)
            stated.append((stored.version, fact.previous_tier, fact.tier))
        return len(stated) >= 2

    await eventually(there, "the tiers to be stated")
    assert stated == [(1, "free", "pro"), (2, "pro", "starter")]
