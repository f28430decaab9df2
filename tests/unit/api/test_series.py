"""Which buckets a request comes to: whole, without gaps, and not too many."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhost_api.series import DEFAULT_BUCKETS, Span
from webhost_contracts.buckets import BUCKETS, MOST, SIZE_MS, Bucket, kept_from, readable_from
from webhost_contracts.usage_rpc import Counters, SeriesPoint
from webhost_kit.errors import InvalidRequest


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = at("2024-03-01T12:34:56")
DAY_MS = SIZE_MS["day"]


@pytest.mark.accept("8.series.http")
@pytest.mark.parametrize("bucket", BUCKETS)
def test_by_default_the_last_bucket_holds_now(bucket: Bucket) -> None:
    span = Span.requested(bucket, None, None, NOW)
    assert span.to_ms - SIZE_MS[bucket] <= NOW < span.to_ms
    assert (span.to_ms - span.from_ms) == DEFAULT_BUCKETS[bucket] * SIZE_MS[bucket]


@pytest.mark.accept("8.series.http")
@given(st.sampled_from(BUCKETS), st.integers(0, 30 * DAY_MS), st.integers(1, 20 * 3_600_000))
def test_buckets_are_whole_and_hold_all_of_the_time(
    bucket: Bucket, ago_ms: int, long_ms: int
) -> None:
    since = NOW - ago_ms
    span = Span.requested(bucket, since, since + long_ms, NOW)
    size = SIZE_MS[bucket]
    assert span.from_ms % size == span.to_ms % size == 0
    assert span.from_ms <= since < span.from_ms + size
    assert span.to_ms - size < since + long_ms <= span.to_ms


@pytest.mark.accept("8.series.http")
def test_gaps_are_zeros_over_a_leap_day_and_the_end_of_a_month() -> None:
    span = Span.requested("day", at("2024-02-28T00:00:00"), at("2024-03-02T00:00:00"), NOW)
    used = Counters(requests=3, cost_picodollars=7)
    points = list(span.filled([SeriesPoint(start_ms=at("2024-02-29T00:00:00"), counters=used)]))
    assert points == [
        (at("2024-02-28T00:00:00"), at("2024-02-29T00:00:00"), Counters()),
        (at("2024-02-29T00:00:00"), at("2024-03-01T00:00:00"), used),
        (at("2024-03-01T00:00:00"), at("2024-03-02T00:00:00"), Counters()),
    ]


@pytest.mark.accept("8.series.http")
def test_a_day_in_which_clocks_are_put_forward_has_24_hours() -> None:
    start = at("2025-03-30T00:00:00")
    span = Span.requested("hour", start, start + DAY_MS, start + 2 * DAY_MS)
    hours = list(span.filled([]))
    assert len(hours) == 24
    assert all(end - begin == 3_600_000 for begin, end, _ in hours)


@pytest.mark.accept("8.series.http")
@pytest.mark.parametrize(
    ("bucket", "from_ms", "to_ms", "said"),
    [
        ("minute", NOW - 5, NOW - 5, "has to be before"),
        ("hour", NOW + 5, None, "has to be before"),
        ("minute", NOW - (MOST + 1) * 60_000, NOW, f"at most {MOST}"),
        ("day", 0, None, f"at most {MOST}"),
        ("minute", NOW - 36 * DAY_MS, NOW - 36 * DAY_MS + 60_000, "kept for 35 days"),
        ("minute", None, NOW - 40 * DAY_MS, "kept for 35 days"),
        ("hour", NOW - 401 * DAY_MS, NOW - 400 * DAY_MS, "kept for 400 days"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_says_what_to_do(
    bucket: Bucket, from_ms: int | None, to_ms: int | None, said: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Span.requested(bucket, from_ms, to_ms, NOW)
    [issue] = refused.value.details["issues"]
    assert issue["path"] == ["fromMs"]
    assert said in issue["message"]


def test_as_many_as_are_answered_may_be_requested() -> None:
    until = NOW - NOW % 60_000
    span = Span.requested("minute", until - MOST * 60_000, until, NOW)
    assert len(list(span.filled([]))) == MOST
    assert Span.requested("day", 0, 1, NOW) == Span("day", 0, DAY_MS)


@given(st.sampled_from(BUCKETS), st.integers(0, 2**45), st.integers(0, DAY_MS))
def test_what_is_readable_is_kept_by_clocks_that_differ(
    bucket: Bucket, now: int, apart_ms: int
) -> None:
    assert kept_from(bucket, now + apart_ms) <= readable_from(bucket, now)
