"""What callers send and we keep or repeat holds no API key, and no value that was wrong."""

from typing import Literal

import msgspec
import pytest
from webhost_contracts.api_keys import in_text, token_of
from webhost_kit.errors import InvalidRequest
from webhost_kit.http.idempotency import check_key
from webhost_kit.http.problems import request_id_from, without_value

TOKEN = token_of("key_" + "0" * 26, bytes(range(32)))


class Asked(msgspec.Struct):
    role: Literal["user"]


@pytest.mark.parametrize("text", [TOKEN, f"order:{TOKEN}", TOKEN[:-9], TOKEN[:60], TOKEN.upper()])
def test_an_api_key_is_neither_a_request_id_nor_an_idempotency_key(text: str) -> None:
    if text.isupper():
        text = text.replace("WHS_", "whs_")
    assert request_id_from(text).startswith("req_")
    with pytest.raises(InvalidRequest) as refused:
        check_key(text)
    assert text not in str(refused.value.details)


@pytest.mark.parametrize("text", ["order-4711", "whs_", "whs_a_script-code", "whs-agent-1"])
def test_other_names_are_kept(text: str) -> None:
    assert request_id_from(text) == text
    assert not in_text(text)
    check_key(text)


def test_what_is_said_of_a_wrong_value_does_not_repeat_it() -> None:
    with pytest.raises(msgspec.ValidationError) as wrong:
        msgspec.json.decode(b'{"role": "private\\nwords"}', type=Asked)
    assert "private" in str(wrong.value)
    assert without_value(str(wrong.value)) == "Invalid enum value"
