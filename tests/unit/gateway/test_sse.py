"""Server-sent events, however the bytes are split."""

import pytest
from webhost_gateway.upstream.sse import HEARTBEAT, SseEvent, SseReader, SseWriter

EXPECTED = [
    SseEvent("meta", b'{"sessionId":"s"}'),
    SseEvent("delta", b'{"text":"caf\xc3\xa9"}'),
    SseEvent("", b"two\nlines"),
    SseEvent("done", b"{}"),
]
TEXT = (
    b": a comment\n\n"
    b'event: meta\nid: 1\ndata: {"sessionId":"s"}\n\n'
    b":\n\n"
    b'event:delta\ndata:{"text":"caf\xc3\xa9"}\n\n'
    b"data: two\ndata: lines\n\n"
    b"event: nothing\n\n"
    b"event: done\nretry: 5\ndata: {}\n\n"
    b"event: cut off\ndata: {}\n"
)


def read(*chunks: bytes) -> list[SseEvent]:
    reader = SseReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_split_at_every_byte(end: bytes) -> None:
    text = TEXT.replace(b"\n", end)
    assert read(text) == EXPECTED
    for place in range(len(text) + 1):
        assert read(text[:place], text[place:]) == EXPECTED
    assert read(*(text[i : i + 1] for i in range(len(text)))) == EXPECTED


def test_an_event_is_there_with_its_blank_line() -> None:
    reader = SseReader()
    assert reader.feed(b"event: delta\ndata: {}\n") == []
    assert reader.feed(b"\n") == [SseEvent("delta", b"{}")]


def test_what_is_written_is_read_back() -> None:
    writer = SseWriter()
    written = [
        writer.event("delta", {"text": "a\nb\r\nc\u2028"}),
        HEARTBEAT,
        writer.event("done", {}),
    ]
    assert read(*written) == [
        SseEvent("delta", '{"text":"a\\nb\\r\\nc\u2028"}'.encode()),
        SseEvent("done", b"{}"),
    ]
    assert written[0].startswith(b"event: delta\nid: 1\ndata: ")
    assert b"\nid: 2\n" in written[2]
    assert b"\r" not in b"".join(written)
