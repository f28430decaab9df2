"""How often something may be written down."""

from webhost_kit.allowance import MOST_KEYS, WINDOW_MS, Allowance

PER_MINUTE = 3


def taken(allowance: Allowance, key: str | None, at_ms: int) -> int:
    """How many of ten at once are granted."""
    return sum(allowance.take(key, at_ms) > 0 for _ in range(10))


def test_each_key_has_so_many_each_minute() -> None:
    allowance = Allowance(PER_MINUTE)
    assert taken(allowance, "a", 0) == PER_MINUTE
    assert taken(allowance, "b", 0) == PER_MINUTE
    assert taken(allowance, None, 0) == PER_MINUTE
    assert taken(allowance, "a", WINDOW_MS - 1) == 0
    assert taken(allowance, "a", WINDOW_MS) == PER_MINUTE


def test_the_key_that_was_not_used_for_longest_is_forgotten() -> None:
    allowance = Allowance(PER_MINUTE)
    for number in range(MOST_KEYS + 1):
        taken(allowance, f"{number}", 0)
    assert taken(allowance, f"{MOST_KEYS}", 0) == 0
    assert taken(allowance, "0", 0) == PER_MINUTE
