"""What must never appear in a log or an error."""

import pytest
from webhost_contracts.api_keys import token_of
from webhost_kit.process.observability import REDACTED, redact, redact_text

SECRET = "sk-live-0123456789abcdef"
API_KEY = token_of("key_01kbbkb1z8e40r2081040g2081", bytes.fromhex("0b" * 32))


@pytest.mark.accept("4.secrets")
@pytest.mark.parametrize(
    "text",
    [
        f"key {SECRET} refused",
        "Authorization: Bearer abc.def-ghi",
        f"key {API_KEY} refused",
        f"?key={API_KEY[:60]}",
        "token eyJhbGciOi.eyJzdWIi.c2ln in query",
        "v1=" + "0f" * 32,
        "nats://user:hunter2@127.0.0.1:4222",
    ],
)
def test_credentials_are_taken_out_of_text(text: str) -> None:
    cleaned = redact_text(text)
    assert REDACTED in cleaned
    for part in (SECRET, "abc.def-ghi", "eyJzdWIi", "0f0f", "0b0b", "hunter2"):
        assert part not in cleaned


def test_values_under_secret_names_are_taken_out_at_any_depth() -> None:
    cleaned = redact({"a": [{"apiKey": "x1"}, {"telemetry_secret": "x2"}], "password": "x3"})
    assert cleaned == {
        "a": [{"apiKey": REDACTED}, {"telemetry_secret": REDACTED}],
        "password": REDACTED,
    }


def test_plain_text_stays() -> None:
    assert redact_text("Uncaught SyntaxError: Unexpected token") == (
        "Uncaught SyntaxError: Unexpected token"
    )
