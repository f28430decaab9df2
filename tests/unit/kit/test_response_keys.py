"""What is kept of requests and answers: bound, rotated, and nothing without its key."""

import pytest
from webhost_kit.keys import base64url
from webhost_kit.response_keys import ResponseKeys, Unreadable

OLD, NEW = (f"{name}:{base64url(name[:1].encode() * 32)}" for name in ("old", "new"))
KEYS = ResponseKeys.parse(f"{NEW},{OLD}")


@pytest.mark.accept("7.4.ledger", "7.keys.made")
def test_the_first_key_seals_and_each_opens_what_it_sealed() -> None:
    assert KEYS.newest == "new"
    for key_id in ("new", "old"):
        sealed = KEYS.seal(key_id, "row", b"secret", b"mine")
        assert b"secret" not in sealed
        assert sealed != KEYS.seal(key_id, "row", b"secret", b"mine")
        assert KEYS.open(key_id, "row", sealed, b"mine") == b"secret"


@pytest.mark.accept("7.4.ledger")
def test_an_answer_opens_in_its_own_row_and_only_as_it_was() -> None:
    sealed = KEYS.seal("old", "row", b"secret", b"mine")
    without = ResponseKeys.parse(NEW)
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for keys, key_id, row, body, bound_to in (
        (KEYS, "old", "row", sealed, b"yours"),
        (KEYS, "old", "another", sealed, b"mine"),
        (KEYS, "new", "row", sealed, b"mine"),
        (KEYS, "old", "row", changed, b"mine"),
        (KEYS, "old", "row", b"", b"mine"),
        (without, "old", "row", sealed, b"mine"),
    ):
        with pytest.raises(Unreadable):
            keys.open(key_id, row, body, bound_to)


@pytest.mark.accept("7.3.fingerprint")
def test_a_fingerprint_needs_its_key() -> None:
    prints = {KEYS.fingerprint(key, request) for key in ("new", "old") for request in (b"a", b"b")}
    assert len(prints) == 4
    assert ResponseKeys.parse(NEW).fingerprint("old", b"a") is None
    assert "n" * 8 not in repr(KEYS)


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="RESPONSE_KEYS must be"):
        ResponseKeys.parse("a:short")
