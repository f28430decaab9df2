"""An OIDC issuer: discovery, key set, and tokens for any subject."""

import time

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from jwt.algorithms import ECAlgorithm


class Issuer:
    """An ASGI application; `url` is set once it is served."""

    def __init__(self) -> None:
        self._key = generate_private_key(SECP256R1())
        self.url = ""

    def token(self, subject: str, *, expires_in_s: float = 3600, **claims: object) -> str:
        claims = {"iss": self.url, "sub": subject, "exp": time.time() + expires_in_s} | claims
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": "k1"})

    async def __call__(self, scope, receive, send) -> None:
        public = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        answer = (
            {"keys": [public | {"kid": "k1", "alg": "ES256", "use": "sig"}]}
            if scope["path"] == "/jwks"
            else {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        )
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})
