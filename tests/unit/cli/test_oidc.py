"""The sign-in's own checks; the flow as a whole is tried against the real issuer."""

import base64
import hashlib
from urllib.parse import parse_qs, urlsplit

import pytest
from webhost_cli.errors import CommandError, ExitCode
from webhost_cli.oidc import Flow

FLOW = Flow(
    issuer="https://issuer.example",
    client_id="webhost-cli",
    redirect_uri="http://127.0.0.1:5/callback",
    authorization_endpoint="https://issuer.example/authorize?tenant=1",
    token_endpoint="https://issuer.example/token",
    verifier="v" * 64,
    state="s" * 32,
)


def test_the_address_asks_for_a_code_with_pkce() -> None:
    query = parse_qs(urlsplit(FLOW.authorization_url).query)
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"v" * 64).digest()).rstrip(b"=").decode()
    assert query["response_type"] == ["code"]
    assert query["code_challenge"] == [digest]
    assert query["code_challenge_method"] == ["S256"]
    assert query["tenant"] == ["1"]
    assert "v" * 64 not in FLOW.authorization_url


def test_only_the_answer_to_this_request_is_taken() -> None:
    assert FLOW.code_from({"state": FLOW.state, "code": "c", "iss": FLOW.issuer}) == "c"
    assert FLOW.code_from({"state": FLOW.state, "code": "c"}) == "c"
    with pytest.raises(CommandError, match="another request"):
        FLOW.code_from({"state": "other", "code": "c"})
    with pytest.raises(CommandError, match="another issuer"):
        FLOW.code_from({"state": FLOW.state, "code": "c", "iss": "https://evil.example"})


def test_a_refusal_is_not_signed_in() -> None:
    with pytest.raises(CommandError, match="nobody there") as caught:
        FLOW.code_from(
            {"state": FLOW.state, "error": "access_denied", "error_description": "nobody there"}
        )
    assert caught.value.exit_code == ExitCode.NOT_SIGNED_IN


def test_nothing_secret_is_shown_of_a_flow() -> None:
    assert FLOW.verifier not in repr(FLOW)
    assert FLOW.state not in repr(FLOW)
