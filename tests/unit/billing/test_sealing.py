"""When a period is closed, and where."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhost_billing.seals.decisions import (
    ALWAYS,
    Part,
    Seal,
    Seals,
    StreamPlace,
    divide,
    due_when_idle,
    first_whole_period,
)
from webhost_contracts import subjects
from webhost_contracts.periods import HOUR_MS, next_period, period_key, previous_period, start_ms

DAY_MS = 24 * HOUR_MS
DELAY_MS = 36 * DAY_MS
SEPTEMBER_IS_SEALED_MS = start_ms("2026-10") + DELAY_MS
USER = "usr_a"
P = subjects.partition_of(USER)


@dataclass(frozen=True)
class At:
    sequence: int
    recorded_at_ms: int


def at(sequence: int, beyond_ms: int) -> At:
    return At(sequence, SEPTEMBER_IS_SEALED_MS + beyond_ms)


BEFORE, SEAL, BEHIND = at(5, -1), at(9, 0), at(12, 10)
AUGUST = StreamPlace(P, "2026-08")


@pytest.mark.accept("8.seals")
def test_a_seal_is_due_at_the_first_message_that_reaches_it() -> None:
    place, parts = divide(AUGUST, [BEFORE, SEAL, SEAL, BEHIND], DELAY_MS)
    assert parts == [Part(None, [BEFORE]), Part(Seal(P, "2026-09", 8), [SEAL, SEAL, BEHIND])]
    assert place == StreamPlace(P, "2026-09")
    assert divide(place, [at(20, -5)], DELAY_MS) == (place, [Part(None, [at(20, -5)])])


def test_the_first_message_of_all_closes_what_is_long_past() -> None:
    _, parts = divide(StreamPlace(P), [BEFORE], DELAY_MS)
    assert parts == [Part(Seal(P, "2026-08", 4), [BEFORE])]


@pytest.mark.accept("8.seals")
def test_what_was_stated_before_a_restore_is_closed_where_it_says() -> None:
    stated = StreamPlace(P, "2026-08", (Seal(P, "2026-09", 10),))
    place, parts = divide(stated, [BEFORE, SEAL, BEHIND], DELAY_MS)
    assert parts == [Part(None, [BEFORE, SEAL]), Part(Seal(P, "2026-09", 10), [BEHIND])]
    assert place == StreamPlace(P, "2026-09")
    sooner = StreamPlace(P, "2026-08", (Seal(P, "2026-09", 3),))
    assert divide(sooner, [BEFORE], DELAY_MS)[1] == [Part(Seal(P, "2026-09", 3), [BEFORE])]
    another_stream = StreamPlace(P, "2026-08", (Seal(P, "2026-09", ALWAYS),))
    _, [part] = divide(another_stream, [BEFORE], DELAY_MS)
    assert part.seal == Seal(P, "2026-09", ALWAYS)


def test_several_seals_may_be_due_at_one_message() -> None:
    stated = StreamPlace(P, "2026-07", (Seal(P, "2026-08", 3), Seal(P, "2026-09", 6)))
    late = at(50, 31 * DAY_MS)
    place, parts = divide(stated, [late], DELAY_MS)
    assert [part.seal and part.seal.sequence for part in parts] == [3, 6, 49]
    assert [list(part.facts) for part in parts] == [[], [], [late]]
    assert place == StreamPlace(P, "2026-10")


@pytest.mark.accept("8.seals")
def test_an_idle_partition_is_closed_by_the_time_of_the_others() -> None:
    assert due_when_idle(AUGUST, BEFORE, 2, DELAY_MS) is None
    assert due_when_idle(AUGUST, SEAL, 7, DELAY_MS) == Seal(P, "2026-09", 7)
    stated = StreamPlace(P, "2026-08", (Seal(P, "2026-09", 9),))
    assert due_when_idle(stated, BEFORE, 7, DELAY_MS) is None
    assert due_when_idle(stated, SEAL, 7, DELAY_MS) == Seal(P, "2026-09", 9)


@pytest.mark.accept("8.seals")
def test_a_period_is_closed_behind_the_first_seal_that_reaches_it() -> None:
    seals = Seals([Seal(P, "2026-09", 100), Seal(P, "2026-07", 40)])
    found = {
        period: [seals.close(USER, period, sequence) for sequence in (40, 41, 100, 101)]
        for period in ("2020-01", "2026-07", "2026-08", "2026-09", "2026-10")
    }
    assert found == {
        "2020-01": [False, True, True, True],
        "2026-07": [False, True, True, True],
        "2026-08": [False, False, False, True],
        "2026-09": [False, False, False, True],
        "2026-10": [False, False, False, False],
    }
    elsewhere = next(f"usr_{n}" for n in range(99) if subjects.partition_of(f"usr_{n}") != P)
    assert not seals.close(elsewhere, "2026-07", 1_000)


def test_a_stream_holds_a_period_whole_that_begins_an_hour_after_it() -> None:
    assert first_whole_period(start_ms("2026-10") - HOUR_MS) == "2026-10"
    assert first_whole_period(start_ms("2026-10") - HOUR_MS + 1) == "2026-11"
    assert first_whole_period(start_ms("2026-10") - HOUR_MS - 1) == "2026-10"


@given(st.integers(0, 4_000_000_000_000))
def test_periods_follow_each_other(at_ms: int) -> None:
    period = period_key(at_ms)
    assert previous_period(next_period(period)) == period
    assert start_ms(period) <= at_ms < start_ms(next_period(period))
    assert period_key(start_ms(period)) == period
