"""Cursors of the feed: what comes back is what was given, and nothing else is a cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhost_billing.feed.cursor import NotACursor, Place, decoded, encoded, mark_of, shares
from webhost_contracts.subjects import PARTITIONS

places = st.lists(
    st.builds(Place, st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1)),
    min_size=PARTITIONS,
    max_size=PARTITIONS,
).map(tuple)

# How fast inputs are made says nothing on a machine that is busy with other things.


@given(places)
def test_a_cursor_comes_back_as_it_was(cursor: tuple[Place, ...]) -> None:
    text = encoded(cursor, "ins_a")
    assert decoded(text, "ins_a") == cursor
    assert text.replace("-", "").replace("_", "").isalnum()
    assert len(text) <= 300


@pytest.mark.accept("8.feed.cursor")
@given(places, st.integers(0, 10_000), st.sampled_from("AZaz09-_"))
def test_a_cursor_that_was_changed_is_none(cursor: tuple[Place, ...], at: int, other: str) -> None:
    text = encoded(cursor, "ins_a")
    at %= len(text) - 1
    changed = text[:at] + other + text[at + 1 :]
    if changed != text:
        with pytest.raises(NotACursor):
            decoded(changed, "ins_a")
    with pytest.raises(NotACursor):
        decoded(text, "ins_b")


@given(st.text(max_size=300))
def test_no_text_is_a_cursor(text: str) -> None:
    with pytest.raises(NotACursor):
        decoded(text, "ins_a")


@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=16), st.integers(1, 500))
def test_a_page_is_full_where_there_is_enough(available: list[int], limit: int) -> None:
    given_ = shares(available, limit)
    assert sum(given_) == min(limit, sum(available))
    assert all(0 <= one <= most for one, most in zip(given_, available, strict=True))
    # Nobody gives less than another one, but for lack of entries.
    least = min((one for one, most in zip(given_, available, strict=True) if one < most), default=0)
    assert max(given_) <= least + 1 or sum(available) <= limit


def test_marks_tell_entries_apart() -> None:
    assert mark_of("inv_a") != mark_of("inv_b") != mark_of("inv_a.1")
