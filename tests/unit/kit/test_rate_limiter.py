"""The rate limiter, with the time passed in."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhost_kit.errors import RateLimited
from webhost_kit.http import problems
from webhost_kit.http.rate_limiter import MOST_KEYS, MOST_PRESSED, RateLimiter, Share


def allowed(limiter: RateLimiter, key: str, now_s: float, *, limit: int, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            limiter.acquire(key, limit, now_s)
            count += 1
        except RateLimited:
            pass
    return count


def refused(limiter: RateLimiter, key: str, now_s: float, *, limit: int) -> bool:
    """Whether a check refuses; it takes nothing."""
    try:
        limiter.check(key, limit, now_s)
    except RateLimited:
        return True
    return False


def test_a_windows_requests_pass_at_once_and_then_come_back_evenly() -> None:
    limiter = RateLimiter("user")
    assert allowed(limiter, "a", 0, limit=60, tries=100) == 60
    assert allowed(limiter, "a", 0.5, limit=60, tries=10) == 0
    assert allowed(limiter, "a", 10, limit=60, tries=100) == 10
    assert allowed(limiter, "a", 1000, limit=60, tries=100) == 60


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 80)), max_size=30),
)
def test_never_more_than_the_limit_and_one_burst(
    limit: int, bursts: list[tuple[float, int]]
) -> None:
    limiter, now_s, granted = RateLimiter("user"), 0.0, 0
    for pause_s, tries in bursts:
        now_s += pause_s
        granted += allowed(limiter, "a", now_s, limit=limit, tries=tries)
        assert granted <= limit + limit * now_s / 60 + 1e-6


def test_keys_are_apart() -> None:
    limiter = RateLimiter("user")
    assert allowed(limiter, "a", 0, limit=1, tries=5) == 1
    assert allowed(limiter, "b", 0, limit=1, tries=5) == 1


@pytest.mark.accept("2.rate-limit")
def test_the_refusal_says_when_to_come_back() -> None:
    limiter = RateLimiter("user")
    limiter.acquire("a", 2, 0)
    limiter.acquire("a", 2, 0)
    with pytest.raises(RateLimited) as refusal:
        limiter.acquire("a", 2, 1)
    assert refusal.value.retryable
    assert problems.headers(refusal.value) == {
        "Retry-After": "29",
        "RateLimit": '"user";r=0;t=29',
        "RateLimit-Policy": '"user";q=2;w=60',
    }
    limiter.acquire("a", 2, 30)


def test_a_lower_limit_is_in_force_at_once_and_zero_allows_nothing() -> None:
    limiter = RateLimiter("user")
    limiter.acquire("a", 1000, 0)
    assert allowed(limiter, "a", 0, limit=3, tries=10) == 3
    assert allowed(limiter, "a", 9999, limit=0, tries=10) == 0


def test_what_is_only_charged_is_checked_before() -> None:
    limiter = RateLimiter("address")
    assert not refused(limiter, "a", 0, limit=2)
    for _ in range(5):  # under way together: none was refused
        limiter.charge("a", 2, 0)
    assert [refused(limiter, "a", now_s, limit=2) for now_s in (0, 29, 30)] == [True, True, False]
    assert not refused(limiter, "b", 0, limit=2)


@pytest.mark.accept("6.C1")
def test_idle_keys_are_dropped_as_others_come() -> None:
    limiter = RateLimiter("user")
    for number in range(1000):
        limiter.acquire(f"early {number}", 5, 0)
    limiter.acquire("busy", 1, 0)
    for number in range(600):
        limiter.acquire(f"late {number}", 5, 61)
    assert len(limiter) == 600
    # What was dropped had a full bucket; what is still filling is kept.
    limiter.acquire("busy", 1, 61)
    assert allowed(limiter, "busy", 100, limit=1, tries=2) == 0


@pytest.mark.accept("6.C1")
def test_no_number_of_keys_makes_it_grow() -> None:
    limiter = RateLimiter("user")
    tracemalloc.start()
    for number in range(4 * MOST_KEYS):
        limiter.acquire(f"usr_{number:026}", 5, 0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{len(limiter)} keys: {size / 1e6:.1f} MB")
    assert len(limiter) == MOST_KEYS
    assert size < 20e6
    # The key used last is still counted.
    assert allowed(limiter, f"usr_{4 * MOST_KEYS - 1:026}", 0, limit=5, tries=9) == 4


def test_at_the_bound_the_least_recently_used_key_goes() -> None:
    limiter = RateLimiter("user", most_keys=2)
    for key in ("a", "b", "a", "c"):
        limiter.acquire(key, 2, 0)
    assert allowed(limiter, "a", 0, limit=2, tries=2) == 0
    assert allowed(limiter, "b", 0, limit=2, tries=3) == 2


def test_a_share_is_a_part_of_burst_and_rate() -> None:
    share = Share(burst=0.5, rate=0.25, raised={"sticky": 0.75})
    limiter = RateLimiter("user", share=share)
    assert allowed(limiter, "a", 0, limit=60, tries=100) == 30
    assert allowed(limiter, "sticky", 0, limit=60, tries=100) == 30
    assert allowed(limiter, "a", 20, limit=60, tries=100) == 5
    assert allowed(limiter, "sticky", 20, limit=60, tries=100) == 15
    # However small the part, one request passes at a time.
    assert allowed(limiter, "rare", 0, limit=1, tries=100) == 1


def test_keys_under_pressure_are_collected_up_to_a_bound() -> None:
    limiter = RateLimiter("user", share=(share := Share()))
    limiter.acquire("calm", 4, 0)
    assert allowed(limiter, "pressed", 0, limit=4, tries=3) == 3
    assert share.pressed == {"pressed"}
    for number in range(2 * MOST_PRESSED):
        allowed(limiter, f"a{number}", 0, limit=1, tries=2)
    assert len(share.pressed) == MOST_PRESSED


def test_many_random_calls_take_constant_time() -> None:
    """The oldest key is found at once, also where thousands before it have been moved."""
    limiter, chance = RateLimiter("user"), random.Random(1)
    keys = [f"usr_{number}" for number in range(MOST_KEYS)]
    for now in range(2):
        for key in chance.sample(keys, len(keys)):
            limiter.acquire(key, 5, float(now))
    for number in range(MOST_KEYS):  # each evicts one; with a search this would take minutes
        limiter.acquire(f"new {number}", 5, 3.0)
    assert len(limiter) == MOST_KEYS
