"""What the development issuer gives a code for, and what a code is worth."""

import base64
import hashlib

import pytest
from webhost_local.issuer.grants import (
    AuthorizationRequest,
    Codes,
    Grant,
    OAuthError,
    check_redirect,
    parse_request,
)

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:43]
PARAMETERS = {
    "response_type": "code",
    "client_id": "dashboard",
    "redirect_uri": "http://127.0.0.1:9000/back",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}
EXCHANGE = {
    "grant_type": "authorization_code",
    "client_id": "dashboard",
    "redirect_uri": "http://127.0.0.1:9000/back",
    "code_verifier": VERIFIER,
}
REQUEST = AuthorizationRequest(
    client_id="dashboard",
    redirect_uri="http://127.0.0.1:9000/back",
    code_challenge=CHALLENGE,
    state=None,
    nonce=None,
    scope="openid",
)
GRANT = Grant(request=REQUEST, subject="alice", email=None, name=None, expires_at_s=100)


def test_a_code_is_worth_its_grant_once() -> None:
    codes = Codes()
    exchange = EXCHANGE | {"code": codes.issue(GRANT)}
    assert codes.redeem(exchange, now_s=99) == GRANT
    with pytest.raises(OAuthError, match="unknown, used or too old"):
        codes.redeem(exchange, now_s=99)


def test_a_code_gets_too_old() -> None:
    codes = Codes()
    with pytest.raises(OAuthError, match="too old"):
        codes.redeem(EXCHANGE | {"code": codes.issue(GRANT)}, now_s=100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "another"},
        {"redirect_uri": "http://127.0.0.1:9000/back/"},
        {"code_verifier": "w" * 43},
        {"code_verifier": ""},
        {"code": "guessed"},
    ],
)
def test_a_wrong_exchange_gets_nothing_and_uses_the_code_up(wrong: dict[str, str]) -> None:
    codes = Codes()
    right = EXCHANGE | {"code": codes.issue(GRANT)}
    with pytest.raises(OAuthError) as refusal:
        codes.redeem(right | wrong, now_s=0)
    assert refusal.value.code == "invalid_grant"
    if "code" not in wrong:
        with pytest.raises(OAuthError):
            codes.redeem(right, now_s=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"response_type": "token"},
        {"code_challenge_method": "plain"},
        {"code_challenge": "short"},
    ],
)
def test_only_code_with_pkce_s256(wrong: dict[str, str]) -> None:
    assert parse_request(PARAMETERS) == REQUEST
    with pytest.raises(OAuthError):
        parse_request(PARAMETERS | wrong)


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9000/back", "http://localhost/x", "http://[::1]:1/", "https://app/cb"]
)
def test_redirects_to_this_machine_and_to_what_is_configured(uri: str) -> None:
    check_redirect("dashboard", uri, {"https://app/cb"})


@pytest.mark.parametrize(
    "uri",
    [
        "https://app/cb/other",
        "https://127.0.0.1/",
        "http://127.0.0.1@evil.example/",
        "http://127.0.0.1.evil.example/",
        "http://user@localhost/",
        "http://localhost/#fragment",
        "http://localhost:port/",
        "javascript:alert(1)",
        "",
    ],
)
def test_redirects_nowhere_else(uri: str) -> None:
    with pytest.raises(OAuthError):
        check_redirect("dashboard", uri, {"https://app/cb"})
