"""Every kind of credential that must be refused, for tests that try all of them everywhere.

A further kind is one more entry of what `credentials` returns.
"""

import time
from dataclasses import dataclass
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.stack import Stack

UNAUTHENTICATED = (401, "UNAUTHENTICATED")


@dataclass(frozen=True)
class Credential:
    """An `Authorization` header, None for none, and how it is refused: status and code."""

    name: str
    header: str | None
    refused: tuple[int, str] = UNAUTHENTICATED


def credentials(stack: Stack, subject: str) -> list[Credential]:
    """Bad credentials in the name of this subject, who is a user."""
    tokens = {
        **_forged(stack, subject),
        **_api_keys(stack.caller(subject)),
        "garbage": "a.b.c",
        "of another scheme of tokens": "whs_nothing",
    }
    return [
        Credential("none", None),
        Credential("an empty one", ""),
        Credential("no token", "Bearer"),
        Credential("another scheme", f"Basic {tokens['expired']}"),
        *(Credential(name, f"Bearer {token}") for name, token in tokens.items()),
    ]


def _forged(stack: Stack, subject: str) -> dict[str, str]:
    issuer = IssuerIdentity.load_or_make(DataDir.at(stack.data_dir))
    key_id = jwt.get_unverified_header(stack.token(subject))["kid"]
    key = load_pem_private_key(issuer.private_key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    stranger = ec.generate_private_key(ec.SECP256R1())
    now = int(time.time())
    claims = {"iss": issuer.url, "sub": subject, "iat": now, "exp": now + 3600}

    def signed(by: ec.EllipticCurvePrivateKey = key, kid: str = key_id, **changed: Any) -> str:
        given = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(given, by, "ES256", headers={"kid": kid})

    def with_public_key(text: bytes) -> str:
        # By hand: the library refuses to do it.
        header = jwt.utils.base64url_encode(
            msgspec.json.encode({"alg": "HS256", "typ": "JWT", "kid": key_id})
        )
        body = jwt.utils.base64url_encode(msgspec.json.encode(claims))
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
            b".".join((header, body)), text
        )
        return b".".join((header, body, jwt.utils.base64url_encode(signature))).decode()

    public = key.public_key()
    good = signed()
    return {
        "expired": signed(iat=now - 7200, exp=now - 10),
        "without an end": signed(exp=None),
        "not valid yet": signed(nbf=now + 600),
        "by another key": signed(by=stranger),
        "by an unknown key": signed(by=stranger, kid="unknown"),
        "alg none": jwt.encode(claims, None, "none", headers={"kid": key_id}),
        "alg none without a header": good.rpartition(".")[0] + ".",
        "HS256 with the public key": with_public_key(
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        ),
        "HS256 with the public key in DER": with_public_key(
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ),
        "of another issuer": signed(iss="https://issuer.example"),
        "of the issuer with a slash": signed(iss=f"{issuer.url}/"),
        "with a changed subject": _with_subject(good, "somebody else"),
        "with a flipped bit": good[:-2] + ("A" if good[-2] != "A" else "B") + good[-1],
    }


def _api_keys(user: Caller) -> dict[str, str]:
    """Keys of the user's that are no longer good, or never were."""

    def made(name: str, **fields: Any) -> tuple[str, str]:
        answer = user.http.post("/v1/keys", json={"name": name, "scopes": ["admin"], **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()["key"]["id"], answer.json()["token"]

    _, good = made("good")
    revoked_id, revoked = made("revoked")
    assert user.http.delete(f"/v1/keys/{revoked_id}").status_code == 204
    _, expired = made("expired", expiresAtMs=round(time.time() * 1000) + 1_000)
    for ended in (revoked, expired):
        header = {"Authorization": f"Bearer {ended}"}
        until(
            lambda header=header: user.http.get("/v1/agents", headers=header).status_code == 401,
            "the key to have ended",
        )
    place = len(good) // 2
    flipped = good[:place] + ("a" if good[place] != "a" else "b") + good[place + 1 :]
    return {
        "a revoked key": revoked,
        "an expired key": expired,
        "a key with a flipped bit": flipped,
        "a key without its checksum": good.rpartition("_")[0],
    }


def _with_subject(token: str, subject: str) -> str:
    header, body, signature = token.split(".")
    claims = msgspec.json.decode(jwt.utils.base64url_decode(body)) | {"sub": subject}
    changed = jwt.utils.base64url_encode(msgspec.json.encode(claims)).decode()
    return ".".join((header, changed, signature))
