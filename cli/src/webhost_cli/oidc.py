"""Signing in: OpenID Connect's authorization code flow with PKCE, as a public client.

`sign_in_with_browser` opens the issuer's page and waits on a loopback redirect;
`sign_in_as` fills in the development issuer's page itself. Errors: CommandError.
"""

import time
import webbrowser
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.common.security import generate_token
from authlib.oauth2 import OAuth2Client
from authlib.oauth2.rfc6749.parameters import parse_authorization_code_response

from webhost_cli.errors import CommandError, ExitCode

BROWSER_S = 300.0
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Tokens:
    """What the issuer gave: the JWT for the API, and when it expires (Unix seconds)."""

    access_token: str = field(repr=False)
    expires_at_s: int


class SignIn:
    """One attempt to sign in; `address` is the issuer's page. Its verifier is used once."""

    def __init__(self, http: httpx.Client, issuer: str, client_id: str, redirect_uri: str) -> None:
        self._issuer = issuer
        discovered = _discover(http, issuer)
        self._token_endpoint: str = discovered["token_endpoint"]
        self._client = OAuth2Client(
            http,
            client_id=client_id,
            redirect_uri=redirect_uri,
            scope="openid profile email",
            code_challenge_method="S256",
        )
        self._verifier = generate_token(64)
        self.address, self._state = self._client.create_authorization_url(
            discovered["authorization_endpoint"], code_verifier=self._verifier
        )

    def finish(self, redirect: str) -> Tokens:
        """Exchange the code in the address that the issuer redirected to for the token."""
        answer = dict(parse_qsl(urlsplit(redirect).query))
        if answer.get("iss", self._issuer) != self._issuer:
            raise CommandError("the response to the sign-in comes from another issuer")
        if "error" in answer:
            reason = answer.get("error_description") or answer["error"]
            raise CommandError(f"the issuer refused: {reason}", ExitCode.NOT_SIGNED_IN)
        token = cast(
            dict[str, Any],
            self._client.fetch_token(
                self._token_endpoint,
                grant_type="authorization_code",
                code=parse_authorization_code_response(redirect, state=self._state)["code"],
                code_verifier=self._verifier,
                # A public client identifies itself in the form, and has no secret.
                client_id=self._client.client_id,
                auth=httpx.Auth(),
            ),
        )
        return Tokens(token["access_token"], token.get("expires_at") or int(time.time()) + 3600)


def sign_in_with_browser(issuer: str, client_id: str, show: Callable[[str], None]) -> Tokens:
    """Open the issuer's page; `show` gets its address too, for where no browser opens."""
    with _talking_to(issuer) as http, _Loopback() as loopback:
        attempt = SignIn(http, issuer, client_id, loopback.redirect_uri)
        show(attempt.address)
        webbrowser.open(attempt.address)
        return attempt.finish(loopback.wait())


def sign_in_as(issuer: str, client_id: str, subject: str) -> Tokens:
    """Sign in at a development issuer, whose page asks for nothing but a name."""
    with _talking_to(issuer) as http:
        attempt = SignIn(http, issuer, client_id, "http://127.0.0.1/callback")
        page = http.get(attempt.address)
        form = _Form()
        form.feed(page.raise_for_status().text)
        if "subject" not in form.fields:
            raise CommandError("this issuer has no sign-in page for development; use a browser")
        target = urljoin(attempt.address, form.action)
        answer = http.post(target, data=form.fields | {"subject": subject})
        return attempt.finish(answer.headers.get("Location", ""))


def _discover(http: httpx.Client, issuer: str) -> dict[str, Any]:
    address = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    found: dict[str, Any] = http.get(address).raise_for_status().json()
    if found.get("issuer") != issuer:
        raise CommandError(f"{address} names another issuer: {found.get('issuer')}")
    return found


@contextmanager
def _talking_to(issuer: str) -> Generator[httpx.Client]:
    """An HTTP client for the issuer, with errors that the command's user understands."""
    try:
        with httpx.Client(timeout=_TIMEOUT_S) as http:
            yield http
    except httpx.TransportError as error:
        message = f"no answer from the issuer at {issuer}: {error}"
        raise CommandError(message, ExitCode.UNAVAILABLE) from error
    except httpx.HTTPStatusError as error:
        where = f"HTTP {error.response.status_code} at {error.request.url}"
        raise CommandError(f"the issuer refused: {where}") from error
    except AuthlibBaseError as error:
        reason = error.description or error.error
        raise CommandError(f"the sign-in failed: {reason}", ExitCode.NOT_SIGNED_IN) from error
    except (ValueError, KeyError) as error:
        message = f"the issuer at {issuer} does not speak OpenID Connect: {error}"
        raise CommandError(message) from error


class _Form(HTMLParser):
    """The fields of the page's form, with the values that it carries."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "form":
            self.action = attributes.get("action") or ""
        elif tag == "input" and (name := attributes.get("name")):
            self.fields[name] = attributes.get("value") or ""


class _Loopback:
    """A listener on 127.0.0.1 that takes the browser's redirect."""

    def __enter__(self) -> "_Loopback":
        self._redirect: str | None = None
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = urlsplit(self.path).path == "/callback"
                if known:
                    loopback._redirect = self.path
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.end_headers()
                self.wfile.write(b"You can close this page and go back to the terminal.\n")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._server.timeout = 1.0
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    @property
    def redirect_uri(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/callback"

    def wait(self) -> str:
        """Return the redirect's path and query. Raises CommandError when none comes."""
        deadline = time.monotonic() + BROWSER_S
        while self._redirect is None:
            if time.monotonic() > deadline:
                raise CommandError("no sign-in within five minutes", ExitCode.NOT_SIGNED_IN)
            self._server.handle_request()
        return self._redirect
