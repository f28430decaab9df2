"""Who is calling: JWTs of one OIDC issuer, checked against its published keys.

The key set is fetched in the background and the last good one is kept; a token with an unknown
key id triggers a refresh, at most every 30 seconds, for which no token with a known one waits. So a
new key is in force within COOL_DOWN_S, and a withdrawn one is not after REFRESH_S, each with the
time of one fetch. The algorithm comes from the allow-list
here, never from the token. Verified tokens are remembered for at most REMEMBERED_S (bounded), and
forgotten when their key is withdrawn.
"""

import asyncio
import re
from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, TypeGuard

import httpx
import jwt
import structlog
from jwt import PyJWK, PyJWKSet
from webhost_contracts import api_keys, ids
from webhost_contracts.api_keys import KeyScope

from webhost_kit.errors import BadToken, Unauthorized, Unavailable

log = structlog.get_logger(__name__)

ALGORITHMS = ["RS256", "ES256"]
REFRESH_S = 45.0
RETRY_S = 2.0
COOL_DOWN_S = 30.0
FETCH_TIMEOUT_S = 10.0
"""For both documents together."""
LEEWAY_S = 5.0
"""How far the issuer's clock may be ahead of ours: for `iat` and `nbf`, never for `exp`."""
REMEMBERED_TOKENS = 10_000
REMEMBERED_S = 300.0
"""How long a token is believed without being verified again."""
MAX_TOKEN_CHARS = 8_192

_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
"""What JSON can express, but Postgres or UTF-8 cannot store."""


@dataclass(frozen=True)
class Principal:
    """A verified caller. The user id is derived from issuer and subject."""

    user_id: str
    issuer: str
    subject: str
    expires_at: float
    email: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A principal who was verified by a key, and until when (Unix seconds) that is believed."""

    principal: Principal
    key_id: str
    until: float


class TokenVerifier:
    """Verifies bearer tokens of one issuer, whose keys are at `jwks_url` or where it says."""

    def __init__(
        self,
        issuer: str,
        *,
        jwks_url: str | None = None,
        audience: str | None = None,
        authorized_parties: tuple[str, ...] = (),
    ) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._audience = audience
        self._parties = authorized_parties
        self._keys: dict[str, PyJWK] = {}
        self._remembered: dict[str, _Remembered] = {}
        self._asked_at = -COOL_DOWN_S
        self._refreshing = asyncio.Lock()
        # Made once: it takes so long that calls would wait for it.
        self._tls = httpx.create_ssl_context()

    def check(self) -> str | None:
        """Say whether any key of the issuer is known."""
        return None if self._keys else "no keys of the issuer yet"

    async def run(self) -> None:
        """Keep the key set fresh."""
        while True:
            fetched = await self._fetch()
            await asyncio.sleep(REFRESH_S if fetched else RETRY_S)

    def remembered(self, authorization: str) -> Principal | None:
        """Return the cached principal of an `Authorization` header that was verified before."""
        found = self._remembered.get(authorization)
        return found.principal if found is not None and time() < found.until else None

    async def verify(self, authorization: str | None) -> Principal:
        """Return who the `Authorization` header is. Raises BadToken or Unavailable."""
        if authorization is None:
            raise BadToken("Send a bearer token in the Authorization header.")
        if (principal := self.remembered(authorization)) is not None:
            return principal
        token = bearer_of(authorization)
        if token is None or len(token) > MAX_TOKEN_CHARS:
            raise BadToken("Send a bearer token in the Authorization header.")
        key = await self._key_of(token)
        principal = self._principal(self._claims(token, key))
        self._remembered.pop(authorization, None)
        while len(self._remembered) >= REMEMBERED_TOKENS:
            del self._remembered[next(iter(self._remembered))]
        until = min(principal.expires_at, time() + REMEMBERED_S)
        self._remembered[authorization] = _Remembered(principal, str(key.key_id), until)
        return principal

    async def _key_of(self, token: str) -> PyJWK:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError as error:
            raise bad_token() from error
        if key_id not in self._keys:
            await self._refresh_for_unknown_key()
        if not self._keys:
            raise Unavailable("The identity provider is unavailable; try again shortly.")
        key = self._keys.get(str(key_id))
        if key is None:
            raise bad_token()
        return key

    async def _refresh_for_unknown_key(self) -> None:
        async with self._refreshing:
            if monotonic() - self._asked_at >= COOL_DOWN_S:
                self._asked_at = monotonic()
                await self._fetch()

    def _claims(self, token: str, key: PyJWK) -> dict[str, Any]:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_S,
                options={
                    "require": ["exp", "iss", "sub"],
                    "verify_aud": self._audience is not None,
                },
            )
        except jwt.PyJWTError as error:
            raise bad_token() from error
        if float(claims["exp"]) <= time():
            raise bad_token()
        return claims

    def _principal(self, claims: dict[str, Any]) -> Principal:
        if self._parties and claims.get("azp") not in self._parties:
            raise bad_token()
        subject = claims["sub"]
        if not _is_text(subject) or len(subject) > 255:
            raise bad_token()
        return Principal(
            user_id=ids.user_id(self._issuer, subject),
            issuer=self._issuer,
            subject=subject,
            expires_at=float(claims["exp"]),
            email=_text(claims.get("email")),
            name=_text(claims.get("name")),
        )

    async def _fetch(self) -> bool:
        try:
            async with (
                asyncio.timeout(FETCH_TIMEOUT_S),
                httpx.AsyncClient(timeout=FETCH_TIMEOUT_S, verify=self._tls) as client,
            ):
                response = await client.get(self._jwks_url or await self._discovered(client))
                response.raise_for_status()
                self._replace_keys(_usable_keys(response.json()))
        except _NO_KEY_SET as error:
            log.warning("key set not fetched; the last good one is kept", error=repr(error))
            return False
        return True

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        issuer = self._issuer.rstrip("/")
        discovery = await client.get(f"{issuer}/.well-known/openid-configuration")
        discovery.raise_for_status()
        return discovery.json()["jwks_uri"]

    def _replace_keys(self, keys: dict[str, PyJWK]) -> None:
        """Verify with these keys from now on; forget what another key of the same id verified."""
        known = self._keys
        self._keys = keys
        gone = {name for name in known if name not in keys or keys[name].key != known[name].key}
        if gone:
            remembered = self._remembered
            self._remembered = {a: one for a, one in remembered.items() if one.key_id not in gone}
            tokens = len(remembered) - len(self._remembered)
            log.warning("keys of the issuer withdrawn", keys=sorted(gone), tokens_forgotten=tokens)


def bearer_of(authorization: str | None) -> str | None:
    """Return the token of an `Authorization` header, None where there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token if token and scheme.lower() == "bearer" else None


def require_scope(scopes: Collection[str], scope: KeyScope) -> None:
    """Raise Unauthorized where an API key with these scopes does not have this one."""
    if not api_keys.allows(scopes, scope):
        raise Unauthorized(
            f"This API key needs the scope '{scope}' for this request.",
            details={"reason": "scope"},
        )


def bad_token() -> BadToken:
    """Return the one answer for a token or key that is not good, for whatever reason."""
    return BadToken("The token is missing, expired or not valid.")


def _usable_keys(key_set: Any) -> dict[str, PyJWK]:
    """Return the keys that verify tokens, by id. Raises one of _NO_KEY_SET if there are none."""
    keys = {
        key.key_id: key
        for key in PyJWKSet.from_dict(key_set).keys
        if key.key_id is not None and key.algorithm_name in ALGORITHMS
    }
    if not keys:
        raise ValueError("no usable key in the key set")
    return keys


# The last four: a document that is not JSON, or not of the shape that it must have.
_NO_KEY_SET = (
    TimeoutError,
    httpx.HTTPError,
    httpx.InvalidURL,
    jwt.PyJWTError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)


def _text(value: object) -> str | None:
    return value if _is_text(value) else None


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value != "" and _NO_TEXT.search(value) is None
