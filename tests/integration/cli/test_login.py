"""Signing in at the real development issuer: with a browser, and by its page alone."""

import os
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import jwt
import pytest
from authlib.common.errors import AuthlibBaseError
from webhost_cli import oidc
from webhost_cli.errors import CommandError, ExitCode
from webhost_local.child import tied_to_parent
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity

from tests.support.deadline import until

CLIENT = "webhost-cli"
REDIRECT = "http://127.0.0.1:5/callback"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data_dir = tmp_path_factory.mktemp("issuer")
    url = IssuerIdentity.load_or_make(DataDir(data_dir)).url
    process = subprocess.Popen(
        [sys.executable, "-m", "webhost_local.issuer"],
        env=os.environ | {"ISSUER_DATA_DIR": str(data_dir)},
        preexec_fn=tied_to_parent(),
    )
    until(lambda: _answers(url), "the issuer to answer")
    yield url
    process.terminate()
    process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _subject(token: str) -> str:
    return jwt.decode(token, options={"verify_signature": False})["sub"]


def test_the_issuers_page_is_filled_in(issuer: str) -> None:
    tokens = oidc.sign_in_as(issuer, CLIENT, "alice <&>")
    claims = jwt.decode(tokens.access_token, options={"verify_signature": False})
    assert (claims["iss"], claims["sub"]) == (issuer, "alice <&>")
    assert tokens.expires_at_s == claims["exp"]


def test_a_browser_brings_the_code_to_the_loopback(
    issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    pages: list[str] = []

    def person(address: str) -> None:
        """What a person does: opens the page, enters a name, and is sent back."""
        form = dict(parse_qsl(urlsplit(address).query)) | {"subject": "bob"}
        answer = httpx.post(address.partition("?")[0], data=form, follow_redirects=True)
        pages.append(answer.text)

    browser: list[threading.Thread] = []

    def open_browser(address: str) -> bool:
        browser.append(threading.Thread(target=person, args=(address,)))
        browser[0].start()
        return True

    monkeypatch.setattr(webbrowser, "open", open_browser)
    tokens = oidc.sign_in_with_browser(issuer, CLIENT, shown.append)
    browser[0].join()
    assert _subject(tokens.access_token) == "bob"
    assert shown[0].startswith(f"{issuer}/authorize?")
    assert "back to the terminal" in pages[0]


def test_an_issuer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"no answer from the issuer at http://127\.0\.0\.1:1"):
        oidc.sign_in_as("http://127.0.0.1:1", CLIENT, "alice")


@pytest.fixture
def attempt(issuer: str) -> Iterator[oidc.SignIn]:
    with httpx.Client() as http:
        yield oidc.SignIn(http, issuer, CLIENT, REDIRECT)


def _answer(attempt: oidc.SignIn) -> dict[str, str]:
    """What the issuer redirects to, once a person has signed in on its page."""
    page, _, query = attempt.address.partition("?")
    answer = httpx.post(page, data=dict(parse_qsl(query)) | {"subject": "carol"})
    return dict(parse_qsl(urlsplit(answer.headers["Location"]).query))


def test_the_address_asks_for_a_code_with_pkce(issuer: str, attempt: oidc.SignIn) -> None:
    query = dict(parse_qsl(urlsplit(attempt.address).query))
    assert attempt.address.startswith(f"{issuer}/authorize?")
    assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
    assert query["redirect_uri"] == REDIRECT
    assert query["scope"].split() == ["openid", "profile", "email"]


def test_the_answer_to_this_request_is_worth_a_token_once(attempt: oidc.SignIn) -> None:
    redirect = f"{REDIRECT}?{urlencode(_answer(attempt))}"
    assert _subject(attempt.finish(redirect).access_token) == "carol"
    with pytest.raises(AuthlibBaseError, match="unknown, used or too old"):
        attempt.finish(redirect)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"state": "of-another-request"}, "State not equal"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"error": "access_denied", "error_description": "not today"}, "refused: not today"),
    ],
)
def test_only_the_answer_to_this_request_is_taken(
    attempt: oidc.SignIn, changed: dict[str, str], message: str
) -> None:
    redirect = f"{REDIRECT}?{urlencode(_answer(attempt) | changed)}"
    with pytest.raises((CommandError, AuthlibBaseError), match=message):
        attempt.finish(redirect)


def test_an_issuer_that_speaks_something_else_is_named(issuer: str) -> None:
    with pytest.raises(CommandError, match=f"the issuer refused: HTTP 404 at {issuer}/livez/"):
        oidc.sign_in_as(f"{issuer}/livez", CLIENT, "alice")


def test_a_failed_sign_in_says_why(issuer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another verifier than the one whose digest the issuer was given.
    monkeypatch.setattr(oidc, "generate_token", lambda length: "short")
    with pytest.raises(CommandError, match="failed: code_verifier does not fit") as caught:
        oidc.sign_in_as(issuer, CLIENT, "alice")
    assert caught.value.exit_code == ExitCode.NOT_SIGNED_IN
