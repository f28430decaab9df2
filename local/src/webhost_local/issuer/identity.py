"""The issuer's identity: its address and its signing key, kept in `issuer.json` (0600).

Both are made once and stay: a user is derived from issuer and subject, so another address would
make other users. Works whether the stack runs or not.
"""

import base64
import hashlib
import json
import time
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from webhost_local.data_dir import DataDir, StackError, write_once
from webhost_local.ports import LOOPBACK, free_port

ALGORITHM = "ES256"


class IssuerIdentity(msgspec.Struct, rename="camel", frozen=True):
    """`url` is the `iss` of its tokens; `privateKey` is a P-256 key in PEM."""

    url: str
    private_key: str

    @classmethod
    def load_or_make(cls, data_dir: DataDir, url: str | None = None) -> "IssuerIdentity":
        """Read the identity of a data directory, which is made if it does not exist.

        A new one has the address `url`, or a free port on loopback.
        """
        if not data_dir.issuer.exists():
            data_dir.make()
            fresh = cls(url or f"http://{LOOPBACK}:{free_port()}", _new_key())
            write_once(data_dir.issuer, msgspec.json.encode(fresh).decode())
        return cls.load(data_dir)

    @classmethod
    def load(cls, data_dir: DataDir) -> "IssuerIdentity":
        """Read the identity of a data directory. Raises StackError where there never was one."""
        if not data_dir.issuer.exists():
            raise StackError(
                f"no stack has run in {data_dir.root}: start one with `webhost up`, "
                "or say with --data-dir where it is"
            )
        return msgspec.json.decode(data_dir.issuer.read_bytes(), type=cls)

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        if port is None:
            raise ValueError(f"the issuer's address has no port: {self.url}")
        return port

    def sign(self, claims: dict[str, Any]) -> str:
        """Return a JWT of these claims, as they are."""
        return jwt.encode(
            claims, self._key, algorithm=ALGORITHM, headers={"kid": self.public_key()["kid"]}
        )

    def token(
        self,
        subject: str,
        *,
        email: str | None = None,
        name: str | None = None,
        expires_in_s: int,
        now_s: int | None = None,
    ) -> str:
        """Return a user's JWT: `iss, sub, iat, nbf, exp`, and `email` and `name` if given."""
        now = int(time.time()) if now_s is None else now_s
        claims: dict[str, Any] = {
            "iss": self.url,
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": now + expires_in_s,
        }
        known = {"email": email, "name": name}
        return self.sign(claims | {key: value for key, value in known.items() if value})

    def public_key(self) -> dict[str, str]:
        """Return the public half as a JWK; its `kid` is the RFC 7638 thumbprint."""
        jwk = {
            k: str(v) for k, v in ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True).items()
        }
        required = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
        digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
        kid = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return required | {"kid": kid, "alg": ALGORITHM, "use": "sig"}

    @property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = load_pem_private_key(self.private_key.encode(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the issuer's key is not an EC key")
        return key


def _new_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
