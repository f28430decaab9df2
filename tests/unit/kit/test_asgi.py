"""How a request's body is collected."""

import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from webhost_kit.errors import PayloadTooLarge
from webhost_kit.http.asgi import ClientGone, Request

MOST = 64 * 1024


def request(parts: Iterable[bytes], *, complete: bool = True) -> Request:
    """A request whose body arrives in these parts, after which its client waits or has gone."""
    messages = iter(parts)
    kept = [next(messages)]

    async def receive() -> dict[str, Any]:
        if not kept:
            return {"type": "http.disconnect"}
        part = kept.pop()
        kept.extend(after for after in [next(messages, None)] if after is not None)
        more = bool(kept) or not complete
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(message)

    return Request({"headers": [(b"transfer-encoding", b"chunked")]}, receive, send)


@pytest.mark.parametrize(
    "parts", [[b""], [b"abc"], [b"", b"abc"], [b"ab", b"c"], [b"a", b"", b"b", b"c", b""]], ids=str
)
async def test_a_body_is_what_was_sent(parts: list[bytes]) -> None:
    assert await request(parts).body(3) == b"".join(parts)


@pytest.mark.parametrize("parts", [[b"abcd"], [b"ab", b"cd"], [b"abc", b"", b"d"]], ids=str)
async def test_a_body_has_an_end(parts: list[bytes]) -> None:
    with pytest.raises(PayloadTooLarge):
        await request(parts).body(3)


async def test_who_leaves_before_the_end_has_gone() -> None:
    with pytest.raises(ClientGone):
        await request([b"ab"], complete=False).body(3)


async def test_many_small_pieces_take_no_more_than_their_bytes() -> None:
    asked = request(bytes([n % 251, n % 13]) for n in range(MOST // 2))
    tracemalloc.start()
    try:
        body = await asked.body(MOST)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) == MOST
    assert peak < 4 * MOST
