"""Server-sent events: the same whatever the chunks, each given out at its end."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhost_cli.sse import Decoder, Event

STREAM = (
    b': hello\n\nid: 1\nevent: meta\ndata: {"a": 1}\n\n'
    b"event: delta\r\nid:2\r\ndata: one\r\ndata: two\r\n\r\n"
    b"unknown: field\rdata: d\xc3\xa9j\xc3\xa0 vu \xe2\x80\xa8 same line\r\r"
)
EVENTS = [
    Event("meta", '{"a": 1}', "1"),
    Event("delta", "one\ntwo", "2"),
    Event("message", "déjà vu \u2028 same line", "2"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_are_the_same_wherever_the_chunks_were_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    decoder = Decoder()
    found = [
        event
        for start, end in itertools.pairwise(places)
        for event in decoder.feed(STREAM[start:end])
    ]
    assert found == EVENTS


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r"])
def test_an_event_is_given_out_with_the_last_byte_that_it_needs(end: bytes) -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: now" + end[:-1]) == []
    assert decoder.feed(end[-1:]) == [Event("message", "now")]


def test_an_event_without_data_and_one_without_an_end_are_none() -> None:
    assert Decoder().feed(b"event: lonely\n\ndata: cut off\n") == []
