"""The oracle: what an invocation's two reports come to, in whatever order they arrive."""

import itertools
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from webhost_billing.charging import (
    SLACK_MS,
    Charge,
    Price,
    PriceBook,
    PricesError,
    Rules,
    UsageRow,
    add,
    charge,
    load_prices,
    subtract,
)
from webhost_billing.model import GatewaySide, Invocation, WorkerSide, merge
from webhost_contracts.usage_rpc import Counters

COUNT = st.integers(0, 10**9)
AT = st.integers(1_700_000_000_000, 1_800_000_000_000)
BOOK = PriceBook(
    [
        Price(
            effective_from=datetime(2023, 1, 1, tzinfo=UTC),
            request=1,
            million_compute_ms=20_000,
            million_tokens=0,
        ),
        Price(
            effective_from=datetime(2025, 6, 1, tzinfo=UTC),
            request=2,
            million_compute_ms=30_000,
            million_tokens=7,
        ),
    ]
)
LONGEST_CALL_MS = 90_000
RULES = Rules(BOOK, LONGEST_CALL_MS)

gateway_sides = st.builds(
    GatewaySide,
    invocation_id=st.just("inv_1"),
    errors=st.integers(0, 1),
    wall_ms=st.none() | COUNT,
)
worker_sides = st.builds(
    WorkerSide,
    event_id=st.just("inv_1"),
    requests=COUNT,
    llm_tokens=COUNT,
    compute_ms=COUNT,
    tool_calls=COUNT,
    errors=COUNT,
)


def invocations(**sides: st.SearchStrategy) -> st.SearchStrategy[Invocation]:
    names = st.sampled_from(["a", "b"])
    return st.builds(
        Invocation,
        user_id=names,
        agent_id=names,
        deployment_id=st.just("dep_1"),
        runtime_provider=names,
        at_ms=AT,
        trace_id=st.none() | names,
        error_class=st.none() | names,
        **sides,
    )


by_gateway = invocations(gateway=gateway_sides)
by_worker = invocations(worker=worker_sides)


def merged(order: list[Invocation]) -> Invocation:
    known = None
    for fact in order:
        known = merge(known, fact)
    assert known is not None
    return known


def charged_step_by_step(order: list[Invocation]) -> dict[UsageRow, Counters]:
    """What stands in the rows when every report moves the charge from where it was."""
    rows: dict[UsageRow, Counters] = {}
    known: Invocation | None = None
    for fact in order:
        merged = merge(known, fact)
        if known is not None:
            old = charge(known, RULES)
            rows[old.row] = subtract(rows[old.row], old.counters)
        new = charge(merged, RULES)
        rows[new.row] = add(rows.get(new.row, Counters()), new.counters)
        known = merged
    return {row: counters for row, counters in rows.items() if counters != Counters()}


# How fast inputs are made says nothing on a machine that is busy with other things.
@given(
    st.lists(by_gateway, max_size=3),
    st.lists(by_worker, max_size=3),
    st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_does_not_matter(gateway, worker, random) -> None:
    """The first of each side counts, whatever is interleaved and repeated."""
    order = [*gateway, *worker]
    if not order:
        return
    sides = [iter(gateway), iter(worker)]
    turns = [0] * len(gateway) + [1] * len(worker)
    random.shuffle(turns)
    interleaved = [next(sides[turn]) for turn in turns]
    assert merged(interleaved) == merged([*gateway[:1], *worker[:1]])
    final = charge(merged(interleaved), RULES)
    expected = {} if final.counters == Counters() else {final.row: final.counters}
    assert charged_step_by_step(interleaved) == expected
    assert charged_step_by_step(order) == expected


@given(by_gateway, by_worker, st.permutations([0, 0, 0, 1, 1, 1]))
def test_repeated_reports_change_nothing(gateway, worker, turns) -> None:
    order = [(gateway, worker)[turn] for turn in turns]
    assert merged(order) == merged([gateway, worker]) == merged([worker, gateway])
    known = merged([gateway, worker])
    assert merge(known, gateway) is known
    assert merge(known, worker) is known


@given(by_gateway)
def test_the_gateway_alone(gateway) -> None:
    counters = charge(gateway, RULES).counters
    assert (counters.requests, counters.errors) == (1, gateway.gateway.errors)
    assert (counters.llm_tokens, counters.tool_calls) == (0, 0)
    assert counters.compute_ms == (gateway.gateway.wall_ms or 0)


@given(by_worker)
def test_the_worker_alone(worker) -> None:
    counters, side = charge(worker, RULES).counters, worker.worker
    assert (counters.requests, counters.errors) == (side.requests, side.errors)
    assert (counters.llm_tokens, counters.tool_calls) == (side.llm_tokens, side.tool_calls)
    assert counters.compute_ms == side.compute_ms


@given(by_gateway, by_worker)
def test_both_together(gateway, worker) -> None:
    both = merged([worker, gateway])
    result: Charge = charge(both, RULES)
    wall_ms = gateway.gateway.wall_ms
    assert result.counters.requests == 1
    assert result.counters.errors == gateway.gateway.errors
    assert result.counters.llm_tokens == worker.worker.llm_tokens
    assert result.counters.tool_calls == worker.worker.tool_calls
    most = (LONGEST_CALL_MS if wall_ms is None else wall_ms) + SLACK_MS
    assert result.counters.compute_ms == min(worker.worker.compute_ms, most)
    assert result.row == charge(gateway, RULES).row
    assert both.source == "both"


@pytest.mark.accept("8.tenants-word")
@given(by_gateway, by_worker, st.integers(0, 100))
def test_a_worker_says_no_less_than_a_part_of_the_wall_time(gateway, worker, percent) -> None:
    """The part is rounded up: nothing is charged only where there is no wall time, or no part."""
    rules = with_least(percent)
    compute_ms = charge(merged([worker, gateway]), rules).counters.compute_ms
    assert charge(merged([gateway, worker]), rules).counters.compute_ms == compute_ms
    wall_ms, reported = gateway.gateway.wall_ms, worker.worker.compute_ms
    if wall_ms is None:
        assert compute_ms == min(reported, LONGEST_CALL_MS + SLACK_MS)
        return
    assert compute_ms * 100 >= wall_ms * percent
    assert compute_ms <= wall_ms + SLACK_MS
    if reported * 100 >= wall_ms * percent:
        assert compute_ms == min(reported, wall_ms + SLACK_MS)
    else:
        assert (compute_ms - 1) * 100 < wall_ms * percent


@pytest.mark.accept("8.tenants-word")
@pytest.mark.parametrize(
    ("wall_ms", "reported", "charged"),
    [
        (100, 0, 25),
        (101, 0, 26),
        (1, 0, 1),
        (0, 0, 0),
        (100, 24, 25),
        (100, 25, 25),
        (100, 99, 99),
        (100, 10**9, 1_100),
        (None, 0, 0),
        (None, 10**9, LONGEST_CALL_MS + SLACK_MS),
    ],
)
def test_what_a_quarter_comes_to(wall_ms: int | None, reported: int, charged: int) -> None:
    gateway = GatewaySide(invocation_id="inv_1", errors=0, wall_ms=wall_ms)
    worker = WorkerSide(
        event_id="inv_1", requests=0, llm_tokens=0, compute_ms=reported, tool_calls=0, errors=0
    )
    both = Invocation(
        user_id="a",
        agent_id="a",
        deployment_id="dep_1",
        runtime_provider="cloudflare",
        at_ms=AT_MIDNIGHT,
        gateway=gateway,
        worker=worker,
    )
    counters = charge(both, with_least(25)).counters
    assert (counters.requests, counters.compute_ms) == (1, charged)


def with_least(percent: int) -> Rules:
    return Rules(BOOK, LONGEST_CALL_MS, percent)


AT_MIDNIGHT = 1_764_547_200_000  # 2025-12-01T00:00:00Z


def test_a_charge_moves_to_the_period_of_the_admission() -> None:
    worker = Invocation(
        user_id="a",
        agent_id="a",
        deployment_id="dep_1",
        runtime_provider="cloudflare",
        at_ms=AT_MIDNIGHT,
        worker=WorkerSide(
            event_id="inv_1", requests=1, llm_tokens=5, compute_ms=9, tool_calls=1, errors=0
        ),
    )
    gateway = replace(
        worker,
        at_ms=AT_MIDNIGHT - 1,
        worker=None,
        gateway=GatewaySide(invocation_id="inv_1", errors=1, wall_ms=20),
    )
    for order in itertools.permutations([worker, gateway]):
        [(row, counters)] = charged_step_by_step(list(order)).items()
        assert row.period_key == "2025-11"
        assert (counters.requests, counters.llm_tokens, counters.compute_ms) == (1, 5, 9)


def test_costs_are_exact_and_follow_the_price_in_force() -> None:
    change = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp() * 1000)
    assert BOOK.picodollars(0, 1, 0, 0) == 1_000_000
    assert BOOK.picodollars(change - 1, 3, 10, 100) == 3_000_000 + 10 * 20_000
    assert BOOK.picodollars(change, 3, 10, 100) == 6_000_000 + 10 * 30_000 + 100 * 7
    assert BOOK.picodollars(change, 10**9, 10**9, 10**9) == 10**9 * (2_000_000 + 30_007)


def test_the_products_own_prices_can_be_read() -> None:
    assert load_prices().picodollars(AT_MIDNIGHT, 1, 1_000_000, 1_000_000) == 20_001_000_000


ENTRY = (
    "[[prices]]\neffective_from = {}\nrequest = 1\nmillion_compute_ms = 2\nmillion_tokens = {}\n"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "prices"),
        ("prices = []", "no price"),
        (ENTRY.format("2025-01-01T00:00:00", 0), "UTC"),
        (ENTRY.format("2025-01-01T00:00:00+02:00", 0), "UTC"),
        (ENTRY.format("2025-01-01T00:00:00Z", 0) * 2, "rise"),
        (ENTRY.format("2025-01-01T00:00:00.001Z", 0), "midnight"),
        (ENTRY.format("2025-01-01T12:00:00Z", 0), "midnight"),
        (ENTRY.format("2025-01-01T00:00:00Z", -1), "negative"),
        (ENTRY.format("2025-01-01T00:00:00Z", 0.5), "million_tokens"),
    ],
)
def test_an_unusable_price_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(PricesError, match=reason):
        load_prices(path)
