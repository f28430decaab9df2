"""Token buckets, with the time passed in."""

import pytest
from webhost_gateway.ratelimit import RateLimit, TooManyRequests


def allowed(limit: RateLimit, key: str, now_s: float, *, per_minute: int, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            limit.acquire(key, per_minute, now_s)
            count += 1
        except TooManyRequests:
            pass
    return count


def test_a_minutes_requests_pass_at_once_and_then_come_back_evenly() -> None:
    limit = RateLimit("user")
    assert allowed(limit, "a", 0, per_minute=60, tries=100) == 60
    assert allowed(limit, "a", 0.5, per_minute=60, tries=10) == 0
    assert allowed(limit, "a", 10, per_minute=60, tries=100) == 10
    assert allowed(limit, "a", 1000, per_minute=60, tries=100) == 60


def test_buckets_are_apart() -> None:
    limit = RateLimit("user")
    assert allowed(limit, "a", 0, per_minute=1, tries=5) == 1
    assert allowed(limit, "b", 0, per_minute=1, tries=5) == 1


def test_the_refusal_says_when_to_come_back() -> None:
    limit = RateLimit("user")
    limit.acquire("a", 2, 0)
    limit.acquire("a", 2, 0)
    with pytest.raises(TooManyRequests) as refused:
        limit.acquire("a", 2, 1)
    assert refused.value.retryable
    assert refused.value.retry_after_s == 29
    assert refused.value.headers == {
        "RateLimit": '"user";r=0;t=29',
        "RateLimit-Policy": '"user";q=2;w=60',
    }
    limit.acquire("a", 2, 30)


def test_a_lower_limit_is_in_force_at_once() -> None:
    limit = RateLimit("user")
    limit.acquire("a", 1000, 0)
    assert allowed(limit, "a", 0, per_minute=3, tries=10) == 3


def test_memory_is_bounded() -> None:
    limit = RateLimit("user", most_buckets=2)
    for key in ("a", "b", "a", "c"):
        limit.acquire(key, 2, 0)
    with pytest.raises(TooManyRequests):
        limit.acquire("a", 2, 0)
    limit.acquire("b", 2, 0)
