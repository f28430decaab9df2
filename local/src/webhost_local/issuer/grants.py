"""Authorization codes: what a client may request, and what a code is exchanged for. No I/O."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

CODE_LIFETIME_S = 60
_MOST_CODES = 1000
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class OAuthError(Exception):
    """An error of RFC 6749: `code` for the client, the message for its developer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class AuthorizationRequest:
    client_id: str
    redirect_uri: str
    code_challenge: str
    state: str | None
    nonce: str | None
    scope: str


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Who signed in, for which request, until when (Unix seconds)."""

    request: AuthorizationRequest
    subject: str
    email: str | None
    name: str | None
    expires_at_s: float


def check_redirect(client_id: str, redirect_uri: str, configured: Collection[str]) -> None:
    """Raise OAuthError unless answers may be sent there: configured, or plain loopback http."""
    if not client_id:
        raise OAuthError("invalid_request", "client_id is missing")
    if redirect_uri in configured:
        return
    try:
        parts = urlsplit(redirect_uri)
        parts.port  # noqa: B018  raises when it is not a number
    except ValueError:
        parts = urlsplit("")
    if (
        parts.scheme != "http"
        or parts.hostname not in _LOOPBACK_HOSTS
        or "@" in parts.netloc
        or "#" in redirect_uri
    ):
        raise OAuthError("invalid_request", "redirect_uri must be http on this machine")


def parse_request(parameters: Mapping[str, str]) -> AuthorizationRequest:
    """Check an authorization request whose redirect has been checked. Raises OAuthError."""
    if parameters.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code")
    if parameters.get("code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "PKCE with S256 is required")
    challenge = parameters.get("code_challenge", "")
    if not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge is not a SHA-256 in base64url")
    return AuthorizationRequest(
        client_id=parameters["client_id"],
        redirect_uri=parameters["redirect_uri"],
        code_challenge=challenge,
        state=parameters.get("state"),
        nonce=parameters.get("nonce"),
        scope=parameters.get("scope", "openid"),
    )


class Codes:
    """Issued codes: each can be exchanged for its grant once, within a minute."""

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}

    def issue(self, grant: Grant) -> str:
        if len(self._grants) >= _MOST_CODES:
            del self._grants[next(iter(self._grants))]
        code = secrets.token_urlsafe(32)
        self._grants[code] = grant
        return code

    def redeem(self, parameters: Mapping[str, str], now_s: float) -> Grant:
        """Return the grant of a token request's code. Raises OAuthError.

        The code is used up even if something else about the request was wrong.
        """
        if parameters.get("grant_type") != "authorization_code":
            raise OAuthError("unsupported_grant_type", "grant_type must be authorization_code")
        grant = self._grants.pop(parameters.get("code", ""), None)
        if grant is None or grant.expires_at_s <= now_s:
            raise OAuthError("invalid_grant", "the code is unknown, used or too old")
        request = grant.request
        if parameters.get("client_id") != request.client_id:
            raise OAuthError("invalid_grant", "the code was given to another client")
        if parameters.get("redirect_uri") != request.redirect_uri:
            raise OAuthError("invalid_grant", "redirect_uri is not the one of the request")
        verifier = parameters.get("code_verifier", "")
        if not _VERIFIER.fullmatch(verifier) or not _proves(verifier, request.code_challenge):
            raise OAuthError("invalid_grant", "code_verifier does not fit the code_challenge")
        return grant


def _proves(verifier: str, challenge: str) -> bool:
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    return hmac.compare_digest(digest, challenge.encode())
