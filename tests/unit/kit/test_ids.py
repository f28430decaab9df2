"""Ids: sortable by time, derived where they must be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhost_contracts import ids
from webhost_contracts.periods import is_period, period_key, previous_period, span_ms

times = st.integers(0, 2**47)
entropy = st.binary(min_size=10, max_size=10)


@given(times, times, entropy, entropy)
def test_ids_sort_by_time(first: int, second: int, a: bytes, b: bytes) -> None:
    if first < second:
        assert ids.new_id(ids.AGENT, first, a) < ids.new_id(ids.AGENT, second, b)


@given(times, entropy)
def test_the_same_time_and_entropy_make_the_same_id(at: int, random: bytes) -> None:
    made = ids.new_id(ids.DEPLOYMENT, at, random)
    assert made == ids.new_id(ids.DEPLOYMENT, at, random)
    assert ids.has_prefix(made, ids.DEPLOYMENT)
    assert not ids.has_prefix(made, ids.AGENT)
    assert ids.made_at_ms(made) == at


@pytest.mark.parametrize("identifier", ["", "evt_", "evt_1", "nothing", "evt_" + "u" * 26])
def test_what_is_no_id_has_no_time(identifier: str) -> None:
    assert ids.made_at_ms(identifier) is None


def test_a_user_is_who_the_issuer_says() -> None:
    assert ids.user_id("https://a", "bob") == ids.user_id("https://a", "bob")
    assert ids.user_id("https://a", "bob") != ids.user_id("https://ab", "ob")
    assert ids.user_id("https://a", "bob") == "usr_220gz5hqdeptkm7y9pmw73f2fw"


def test_a_period_is_a_calendar_month_in_utc() -> None:
    assert period_key(1_764_547_199_999) == "2025-11"
    assert period_key(1_764_547_200_000) == "2025-12"


def test_every_period_has_its_times() -> None:
    for period in ("2000-01", "2026-12", "2099-12"):
        assert is_period(period)
        assert {period_key(at_ms) for at_ms in (span_ms(period)[0], span_ms(period)[1] - 1)} == {
            period
        }
    for text in ("0000-01", "1999-12", "2100-01", "9999-12", "2026-13", "2026-1", "2026-01\n"):
        assert not is_period(text)


@pytest.mark.parametrize(("period", "before"), [("2026-11", "2026-10"), ("2026-01", "2025-12")])
def test_the_period_before(period: str, before: str) -> None:
    assert previous_period(period) == before
