"""The issuer's HTTP endpoints.

GET /.well-known/openid-configuration, /jwks; GET and POST /authorize (code + PKCE S256 only);
POST /token; GET /userinfo; GET /livez, /readyz. Errors of the token endpoint are RFC 6749's.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlencode, urlsplit

import jwt
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from webhost_local.issuer import pages
from webhost_local.issuer.grants import (
    CODE_LIFETIME_S,
    AuthorizationRequest,
    Codes,
    Grant,
    OAuthError,
    check_redirect,
    parse_request,
)
from webhost_local.issuer.identity import ALGORITHM, IssuerIdentity
from webhost_local.listening import LOOPBACK_HOSTS

TOKEN_LIFETIME_S = 12 * 3600

_CARRIED = (
    *("response_type", "client_id", "redirect_uri", "scope", "state", "nonce"),
    *("code_challenge", "code_challenge_method"),
)
_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NO_STORE = {"Cache-Control": "no-store"}


class Issuer:
    """One issuer: its identity, where it may redirect to, the codes it has given out."""

    def __init__(self, identity: IssuerIdentity, redirect_uris: Collection[str]) -> None:
        self._identity = identity
        self._redirect_uris = redirect_uris
        self._codes = Codes()

    async def discovery(self, request: Request) -> Response:
        base = self._identity.url
        return JSONResponse(
            {
                "issuer": base,
                "authorization_endpoint": f"{base}/authorize",
                "token_endpoint": f"{base}/token",
                "userinfo_endpoint": f"{base}/userinfo",
                "jwks_uri": f"{base}/jwks",
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "grant_types_supported": ["authorization_code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [ALGORITHM],
                "token_endpoint_auth_methods_supported": ["none"],
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": ["openid", "profile", "email"],
                "claims_supported": ["sub", "email", "name"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def jwks(self, request: Request) -> Response:
        return JSONResponse({"keys": [self._identity.public_key()]})

    async def ask(self, request: Request) -> Response:
        parameters = {k: v for k, v in request.query_params.items() if k in _CARRIED}
        checked = self._check(parameters)
        if isinstance(checked, Response):
            return checked
        return HTMLResponse(pages.sign_in(parameters), headers=_PAGE_HEADERS)

    async def authorize(self, request: Request) -> Response:
        form = await _form(request)
        checked = self._check(form)
        if isinstance(checked, Response):
            return checked
        subject = form.get("subject", "").strip()
        if not subject:  # the form asks for one; this is not a browser with the form
            return HTMLResponse(pages.refused("no user given"), 400, headers=_PAGE_HEADERS)
        grant = Grant(
            request=checked,
            subject=subject,
            email=form.get("email", "").strip() or None,
            name=form.get("name", "").strip() or None,
            expires_at_s=time.time() + CODE_LIFETIME_S,
        )
        return self._redirect(form, {"code": self._codes.issue(grant)})

    async def token(self, request: Request) -> Response:
        try:
            grant = self._codes.redeem(await _form(request), time.time())
        except OAuthError as error:
            body = {"error": error.code, "error_description": str(error)}
            return JSONResponse(body, 400, headers=_NO_STORE)
        access_token = self._identity.token(
            grant.subject, email=grant.email, name=grant.name, expires_in_s=TOKEN_LIFETIME_S
        )
        body = {
            "access_token": access_token,
            "id_token": self._id_token(grant),
            "token_type": "Bearer",
            "expires_in": TOKEN_LIFETIME_S,
            "scope": grant.request.scope,
        }
        return JSONResponse(body, headers=_NO_STORE)

    async def userinfo(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            claims = jwt.decode(
                token if scheme.lower() == "bearer" else "",
                jwt.PyJWK(self._identity.public_key()),
                algorithms=[ALGORITHM],
                issuer=self._identity.url,
            )
        except jwt.InvalidTokenError:
            refusal = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            return JSONResponse({"error": "invalid_token"}, 401, headers=refusal)
        return JSONResponse({k: claims[k] for k in ("sub", "email", "name") if k in claims})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def _check(self, parameters: Mapping[str, str]) -> AuthorizationRequest | Response:
        """The request, or the answer to a bad one: a page if there is no valid redirect address."""
        client, target = parameters.get("client_id", ""), parameters.get("redirect_uri", "")
        try:
            check_redirect(client, target, self._redirect_uris)
        except OAuthError as error:
            return HTMLResponse(pages.refused(str(error)), 400, headers=_PAGE_HEADERS)
        try:
            return parse_request(parameters)
        except OAuthError as error:
            answer = {"error": error.code, "error_description": str(error)}
            return self._redirect(parameters, answer)

    def _redirect(self, parameters: Mapping[str, str], answer: dict[str, str]) -> Response:
        if "state" in parameters:
            answer["state"] = parameters["state"]
        target = parameters["redirect_uri"]
        separator = "&" if urlsplit(target).query else "?"
        location = target + separator + urlencode(answer | {"iss": self._identity.url})
        return RedirectResponse(location, 303, headers=_NO_STORE)

    def _id_token(self, grant: Grant) -> str:
        now = int(time.time())
        claims = {
            "iss": self._identity.url,
            "aud": grant.request.client_id,
            "sub": grant.subject,
            "iat": now,
            "exp": now + TOKEN_LIFETIME_S,
        }
        known = {"email": grant.email, "name": grant.name, "nonce": grant.request.nonce}
        return self._identity.sign(claims | {k: v for k, v in known.items() if v})


def build(
    identity: IssuerIdentity,
    *,
    redirect_uris: Collection[str],
    cors_origins: list[str],
    hosts: Sequence[str] = (),
) -> Starlette:
    """The issuer as an ASGI application, for loopback and the names of `hosts`."""
    issuer = Issuer(identity, redirect_uris)
    return Starlette(
        routes=[
            Route("/.well-known/openid-configuration", issuer.discovery),
            Route("/jwks", issuer.jwks),
            Route("/authorize", issuer.ask, methods=["GET"]),
            Route("/authorize", issuer.authorize, methods=["POST"]),
            Route("/token", issuer.token, methods=["POST"]),
            Route("/userinfo", issuer.userinfo),
            Route("/livez", issuer.health),
            Route("/readyz", issuer.health),
        ],
        middleware=[
            # A page of another site must not reach us under its own name (DNS rebinding).
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_HOSTS, *hosts]),
            Middleware(
                CORSMiddleware,
                allow_origins=cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type"],
            ),
        ],
    )


async def _form(request: Request) -> dict[str, str]:
    async with request.form(max_files=0, max_fields=20, max_part_size=16_384) as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}
