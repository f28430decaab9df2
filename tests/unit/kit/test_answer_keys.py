"""Recorded answers that hold secrets."""

import pytest
from webhost_kit.answer_keys import AnswerKeys
from webhost_kit.keys import base64url

ONE, TWO = (
    f"{name}:{base64url(bytes([name_byte]) * 32)}" for name, name_byte in (("a", 1), ("b", 2))
)


def keys(text: str) -> AnswerKeys:
    return AnswerKeys.parse(text, "ANSWER_KEYS")


@pytest.mark.accept("7.keys.made")
def test_the_first_key_encrypts_and_every_key_decrypts() -> None:
    before, during, after = keys(ONE), keys(f"{TWO},{ONE}"), keys(TWO)
    old, new = before.encrypt(b"secret", b"mine"), during.encrypt(b"secret", b"mine")
    assert b"secret" not in old + new
    assert old != before.encrypt(b"secret", b"mine")
    assert during.decrypt(old, b"mine") == during.decrypt(new, b"mine") == b"secret"
    assert after.decrypt(new, b"mine") == b"secret"
    assert after.decrypt(old, b"mine") is None


@pytest.mark.parametrize("text", [b"", b"a", b"a:", b"a:short", b"\xff:x"])
def test_what_was_not_encrypted_is_nothing(text: bytes) -> None:
    assert keys(ONE).decrypt(text, b"mine") is None


def test_an_answer_opens_in_its_own_context_and_only_as_it_was() -> None:
    text = keys(ONE).encrypt(b"secret", b"mine")
    assert keys(ONE).decrypt(text, b"yours") is None
    assert keys(ONE).decrypt(text[:-1] + bytes([text[-1] ^ 1]), b"mine") is None
    assert "1" * 8 not in repr(keys(ONE))


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="ANSWER_KEYS must be"):
        keys("a:short")
