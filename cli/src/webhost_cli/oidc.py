"""Signing in: OpenID Connect's authorization code flow with PKCE, as a public client.

`sign_in_with_browser` opens the issuer's page and waits on a loopback redirect;
`sign_in_as` fills in the development issuer's page itself. Errors: CommandError.
"""

import base64
import hashlib
import secrets
import time
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx

from webhost_cli.errors import CommandError, ExitCode

BROWSER_S = 300.0
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Tokens:
    """What the issuer gave: the JWT for the API, and when it expires (Unix seconds)."""

    access_token: str = field(repr=False)
    expires_at_s: int


@dataclass(frozen=True)
class Flow:
    """One attempt to sign in; its verifier and state are used once."""

    issuer: str
    client_id: str
    redirect_uri: str
    authorization_endpoint: str
    token_endpoint: str
    verifier: str = field(repr=False)
    state: str = field(repr=False)

    @classmethod
    def begin(cls, http: httpx.Client, issuer: str, client_id: str, redirect_uri: str) -> "Flow":
        """Ask the issuer where its endpoints are."""
        address = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        found = _json(_request(http, "GET", address))
        if found.get("issuer") != issuer:
            raise CommandError(f"{address} speaks for another issuer: {found.get('issuer')}")
        return cls(
            issuer=issuer,
            client_id=client_id,
            redirect_uri=redirect_uri,
            authorization_endpoint=found["authorization_endpoint"],
            token_endpoint=found["token_endpoint"],
            verifier=secrets.token_urlsafe(48),
            state=secrets.token_urlsafe(24),
        )

    @property
    def authorization_url(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        parameters = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": "openid profile email",
            "state": self.state,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        separator = "&" if urlsplit(self.authorization_endpoint).query else "?"
        return self.authorization_endpoint + separator + urlencode(parameters)

    def code_from(self, answer: Mapping[str, str]) -> str:
        """The code in the redirect's parameters, if they answer this very request."""
        if not secrets.compare_digest(answer.get("state", "").encode(), self.state.encode()):
            raise CommandError("the answer to the sign-in belongs to another request")
        if answer.get("iss", self.issuer) != self.issuer:
            raise CommandError("the answer to the sign-in comes from another issuer")
        if "code" not in answer:
            reason = answer.get("error_description") or answer.get("error") or "no code"
            raise CommandError(f"the issuer refused: {reason}", ExitCode.NOT_SIGNED_IN)
        return answer["code"]

    def redeem(self, http: httpx.Client, code: str) -> Tokens:
        """Exchange the code for the token."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": self.client_id,
            "code_verifier": self.verifier,
        }
        found = _json(_request(http, "POST", self.token_endpoint, data=form))
        lifetime_s = int(found.get("expires_in", 3600))
        return Tokens(found["access_token"], int(time.time()) + lifetime_s)


def sign_in_with_browser(issuer: str, client_id: str, show: Callable[[str], None]) -> Tokens:
    """Open the issuer's page; `show` gets its address too, for where no browser opens."""
    with httpx.Client(timeout=_TIMEOUT_S) as http, _Loopback() as loopback:
        flow = Flow.begin(http, issuer, client_id, loopback.redirect_uri)
        show(flow.authorization_url)
        webbrowser.open(flow.authorization_url)
        return flow.redeem(http, flow.code_from(loopback.wait()))


def sign_in_as(issuer: str, client_id: str, subject: str) -> Tokens:
    """Sign in at a development issuer, whose page asks for nothing but a name."""
    redirect_uri = "http://127.0.0.1/callback"
    with httpx.Client(timeout=_TIMEOUT_S) as http:
        flow = Flow.begin(http, issuer, client_id, redirect_uri)
        page = _request(http, "GET", flow.authorization_url)
        form = _Form()
        form.feed(page.text)
        if "subject" not in form.fields:
            raise CommandError("this issuer has no sign-in page for development; use a browser")
        target = urljoin(flow.authorization_endpoint, form.action)
        answer = _request(http, "POST", target, data=form.fields | {"subject": subject})
        location: str = answer.headers.get("Location", "")
        return flow.redeem(http, flow.code_from(dict(parse_qsl(urlsplit(location).query))))


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
        self._answer: dict[str, str] | None = None
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                known = parts.path == "/callback"
                if known:
                    loopback._answer = dict(parse_qsl(parts.query))
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

    def wait(self) -> dict[str, str]:
        """The redirect's parameters. Raises CommandError when none comes."""
        deadline = time.monotonic() + BROWSER_S
        while self._answer is None:
            if time.monotonic() > deadline:
                raise CommandError("nobody signed in within five minutes", ExitCode.NOT_SIGNED_IN)
            self._server.handle_request()
        return self._answer


def _request(http: httpx.Client, method: str, address: str, **rest: Any) -> httpx.Response:
    try:
        response = http.request(method, address, **rest)
    except httpx.TransportError as error:
        message = f"no answer from the issuer at {address}: {error}"
        raise CommandError(message, ExitCode.UNAVAILABLE) from error
    if response.status_code >= 400:
        raise CommandError(f"the issuer refused: HTTP {response.status_code} at {address}")
    return response


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        return response.json()
    except ValueError as error:
        raise CommandError(f"not an OpenID Connect answer: {response.url}") from error
