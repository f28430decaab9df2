"""The scan for canaries finds one that is planted, however it was written."""

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from tests.support.canaries import HALF_BYTES, Canaries

WRITTEN = {
    "plain": lambda value: value.encode(),
    "its first half": lambda value: value[: 2 * HALF_BYTES].encode(),
    "hex": lambda value: value.encode().hex().encode(),
    "HEX": lambda value: value.encode().hex().upper().encode(),
    "URL": lambda value: quote(value, safe="").encode(),
    "form": lambda value: quote_plus(value).encode(),
    "JSON": lambda value: json.dumps({"a": value}).encode(),
    "JSON in UTF-8": lambda value: json.dumps([value], ensure_ascii=False).encode(),
    "JSON in JSON": lambda value: json.dumps(json.dumps(value)).encode(),
    **{
        f"{name} behind {n}": lambda value, n=n, encode=encode: encode(b"x" * n + value.encode())
        for n in range(4)
        for name, encode in (
            ("base64", base64.b64encode),
            ("base64url", base64.urlsafe_b64encode),
            ("base64 of JSON", lambda it: base64.b64encode(json.dumps(it.decode()).encode())),
        )
    },
}


@pytest.mark.accept("7.4.scan")
@pytest.mark.parametrize("how", WRITTEN)
def test_a_planted_canary_is_found(how: str) -> None:
    canaries = Canaries()
    value = canaries.new("planted")
    canaries.new("another")
    hits = canaries.hits("here", b"before " + WRITTEN[how](value) + b" behind")
    assert {(hit.canary, hit.place) for hit in hits} == {("planted", "here")}


def test_what_is_not_there_is_not_found() -> None:
    canaries = Canaries()
    canaries.new("one")
    other = Canaries().new("other")
    assert canaries.hits("here", b"".join(write(other) for write in WRITTEN.values())) == []
