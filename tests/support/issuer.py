"""A real OIDC issuer for tests: discovery and keys over HTTP, tokens signed by the test."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.support.serving import serving

KEY_ID = "k1"


@dataclass
class TestIssuer:
    """Publishes one key, and signs with it."""

    __test__ = False

    url: str = ""
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def token(self, subject: str, **claims: Any) -> str:
        """Return a JWT that is good for five minutes, unless `claims` say otherwise."""
        claims = {"iss": self.url, "sub": subject, "exp": int(time.time()) + 300, **claims}
        return jwt.encode(claims, self.key, "ES256", headers={"kid": KEY_ID})

    def discovery(self, _request: Request) -> JSONResponse:
        return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"})

    def jwks(self, _request: Request) -> JSONResponse:
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return JSONResponse({"keys": [{**public, "kid": KEY_ID, "alg": "ES256"}]})


@asynccontextmanager
async def running_issuer() -> AsyncIterator[TestIssuer]:
    """Serve an issuer until the block ends."""
    issuer = TestIssuer()
    app = Starlette(
        routes=[
            Route("/.well-known/openid-configuration", issuer.discovery),
            Route("/jwks", issuer.jwks),
        ]
    )
    async with serving(app) as url:
        issuer.url = url
        yield issuer
