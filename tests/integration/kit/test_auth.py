"""Tokens against a real issuer's published keys, also when the issuer is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from webhost_contracts import ids
from webhost_kit.errors import BadToken, Unauthenticated, Unavailable
from webhost_kit.http import auth
from webhost_kit.http.auth import TokenVerifier

from tests.support.deadline import eventually
from tests.support.harness import in_background
from tests.support.serving import serving


@dataclass
class Issuer:
    """A published key set that a test can change, and how often it was fetched."""

    url: str = ""
    keys: dict[str, Any] = field(default_factory=dict)
    fetched: int = 0
    away: bool = False
    broken: Sequence[Any] = ()
    """Documents that are published once each, before the key set is again."""
    holding: asyncio.Event | None = None
    """While it is there and not set, the key set is not answered."""
    drips: bool = False

    def discovery(self, _request: Request) -> JSONResponse:
        return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"})

    async def jwks(self, _request: Request) -> Response:
        self.fetched += 1
        if self.drips:
            return StreamingResponse(self._dripping())
        if self.holding is not None:
            await self.holding.wait()
        if self.away:
            return JSONResponse({}, status_code=503)
        if self.broken:
            document, *self.broken = self.broken
            return JSONResponse(document)
        published = []
        for key_id, key in self.keys.items():
            rs = isinstance(key, rsa.RSAPrivateKey)
            algorithm = RSAAlgorithm if rs else ECAlgorithm
            published.append(
                {
                    **algorithm.to_jwk(key.public_key(), as_dict=True),
                    "kid": key_id,
                    "alg": "RS256" if rs else "ES256",
                }
            )
        return JSONResponse({"keys": published})

    async def _dripping(self) -> AsyncIterator[bytes]:
        while self.drips:
            yield b" "
            await asyncio.sleep(0.05)

    def token(self, key_id: str = "k1", algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        payload = {"iss": self.url, "sub": "alice", "exp": now + 60, **claims}
        payload = {name: value for name, value in payload.items() if value is not None}
        token = jwt.encode(payload, self.keys[key_id], algorithm, headers={"kid": key_id})
        return f"Bearer {token}"


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    it = Issuer(keys={"k1": rsa.generate_private_key(65537, 2048)})
    app = Starlette(
        routes=[
            Route("/.well-known/openid-configuration", it.discovery),
            Route("/jwks", it.jwks),
        ]
    )
    async with serving(app) as it.url:
        yield it


async def watched(verifier: TokenVerifier) -> None:
    async def knows_keys() -> bool:
        return verifier.check() is None

    await eventually(knows_keys, "the issuer's keys")


async def test_a_valid_token_names_its_user(issuer: Issuer) -> None:
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        token = issuer.token(email="a@example.com", aud="anything")
        principal = await verifier.verify(token)
        assert principal.user_id == ids.user_id(issuer.url, "alice")
        assert principal.email == "a@example.com"
        assert verifier.remembered(token) == principal


async def test_keys_can_be_fetched_where_the_issuer_does_not_say(issuer: Issuer) -> None:
    """In a network in which the issuer's own address leads elsewhere."""
    jwks_url, issuer.url = f"{issuer.url}/jwks", "http://127.0.0.1:1"
    verifier = TokenVerifier(issuer.url, jwks_url=jwks_url)
    async with in_background(verifier.run()):
        await watched(verifier)
        principal = await verifier.verify(issuer.token())
        assert principal.user_id == ids.user_id("http://127.0.0.1:1", "alice")


async def test_what_is_remembered_is_bounded(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBERED_TOKENS", 2)
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        tokens = [issuer.token(email=f"{number}@example.com") for number in range(3)]
        for token in tokens:
            await verifier.verify(token)
        assert [verifier.remembered(token) is not None for token in tokens] == [False, True, True]


async def test_what_cannot_be_kept_of_a_profile_is_left_out(issuer: Issuer) -> None:
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        principal = await verifier.verify(issuer.token(email="a\0", name="\udfff"))
        assert (principal.subject, principal.email, principal.name) == ("alice", None, None)


async def test_an_issuer_is_compared_to_the_letter(issuer: Issuer) -> None:
    verifier = TokenVerifier(f"{issuer.url}/")
    async with in_background(verifier.run()):
        await watched(verifier)
        assert (await verifier.verify(issuer.token(iss=f"{issuer.url}/"))).subject == "alice"
        with pytest.raises(Unauthenticated):
            await verifier.verify(issuer.token())


@pytest.mark.accept("2.tokens")
@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"nbf": 2**33},
        {"iss": "https://someone.else"},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "a\0b"},
        {"sub": "\ud800"},
    ],
    ids=str,
)
async def test_bad_claims_are_refused(issuer: Issuer, claims: dict[str, Any]) -> None:
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        with pytest.raises(Unauthenticated):
            await verifier.verify(issuer.token(**claims))


@pytest.mark.accept("A13")
@pytest.mark.parametrize(
    ("claim", "seconds", "valid"),
    [
        ("iat", 3, True),
        ("nbf", 3, True),
        ("iat", 30, False),
        ("nbf", 30, False),
        ("exp", -1, False),
    ],
)
async def test_an_issuers_clock_may_be_a_little_ahead_and_an_expired_token_is_expired(
    issuer: Issuer, claim: str, seconds: int, valid: bool
) -> None:
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        token = issuer.token(**{claim: int(time.time()) + seconds})
        if valid:
            assert (await verifier.verify(token)).subject == "alice"
        else:
            with pytest.raises(Unauthenticated):
                await verifier.verify(token)


@pytest.mark.accept("2.tokens")
async def test_audience_and_party_are_checked_where_configured(issuer: Issuer) -> None:
    verifier = TokenVerifier(issuer.url, audience="webhost", authorized_parties=("https://app",))
    async with in_background(verifier.run()):
        await watched(verifier)
        await verifier.verify(issuer.token(aud="webhost", azp="https://app"))
        for claims in ({}, {"aud": "webhost"}, {"aud": "other", "azp": "https://app"}):
            with pytest.raises(Unauthenticated):
                await verifier.verify(issuer.token(**claims))


@pytest.mark.accept("2.tokens")
async def test_the_algorithm_is_never_the_tokens_choice(issuer: Issuer) -> None:
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        claims = {"iss": issuer.url, "sub": "alice", "exp": 2**33}
        unsigned = jwt.encode(claims, None, "none", headers={"kid": "k1"})
        symmetric = jwt.encode(claims, "k" * 32, "HS256", headers={"kid": "k1"})
        for forged in (unsigned, symmetric, "garbage", "", "a.b.c"):
            with pytest.raises(Unauthenticated):
                await verifier.verify(f"Bearer {forged}")


async def test_a_new_key_is_fetched_once_and_a_flood_of_unknown_ones_is_not(
    issuer: Issuer,
) -> None:
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        before = issuer.fetched
        issuer.keys["k2"] = ec.generate_private_key(ec.SECP256R1())
        await verifier.verify(issuer.token("k2", "ES256"))
        issuer.keys["unpublished"] = issuer.keys["k1"]
        token = issuer.token("unpublished")
        del issuer.keys["unpublished"]
        for _ in range(20):
            with pytest.raises(Unauthenticated):
                await verifier.verify(token)
        assert issuer.fetched == before + 1


async def test_without_any_key_nobody_is_refused_for_good(issuer: Issuer) -> None:
    issuer.away = True
    verifier = TokenVerifier(issuer.url)
    with pytest.raises(Unavailable):
        await verifier.verify(issuer.token())
    assert verifier.check() is not None


@pytest.mark.accept("7.jwt")
async def test_the_last_good_keys_outlive_the_issuer(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REFRESH_S", 0.02)
    monkeypatch.setattr(auth, "RETRY_S", 0.02)
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        issuer.away = True
        before = issuer.fetched

        async def asked_in_vain() -> bool:
            return issuer.fetched >= before + 3

        await eventually(asked_in_vain, "the issuer to be asked while it is away")
        assert (await verifier.verify(issuer.token())).subject == "alice"
        with pytest.raises(Unauthenticated):
            await verifier.verify(issuer.token(exp=1))


@pytest.mark.accept("7.jwt")
def test_keys_come_into_force_and_go_within_a_minute() -> None:
    assert auth.REFRESH_S + auth.FETCH_TIMEOUT_S < 60
    assert auth.COOL_DOWN_S + auth.FETCH_TIMEOUT_S < 60
    assert auth.RETRY_S + auth.FETCH_TIMEOUT_S < 60


@pytest.mark.accept("7.jwt")
async def test_a_new_key_is_in_force_after_a_flood_of_unknown_ones(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "COOL_DOWN_S", 0.3)
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        stranger = rsa.generate_private_key(65537, 2048)
        new = ec.generate_private_key(ec.SECP256R1())

        async def accepted() -> bool:
            # Each try is one more flood.
            for number in range(20):
                with pytest.raises(Unauthenticated):
                    await verifier.verify(unpublished(issuer, stranger, f"unknown-{number}"))
            try:
                return (await verifier.verify(issuer.token("new", "ES256"))).subject == "alice"
            except Unauthenticated:
                return False

        issuer.keys["new"] = new
        await eventually(accepted, "the new key to be in force")


@pytest.mark.accept("7.jwt")
async def test_a_flood_of_unknown_keys_makes_one_fetch_and_holds_up_no_valid_token(
    issuer: Issuer,
) -> None:
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        before = issuer.fetched
        # given an issuer that answers nothing any more, and many tokens that name no known key
        issuer.holding = asyncio.Event()
        stranger = rsa.generate_private_key(65537, 2048)
        forged = [unpublished(issuer, stranger, f"unknown-{number}") for number in range(300)]
        valid = [issuer.token(jti=str(number)) for number in range(50)]
        flood = [asyncio.create_task(verifier.verify(token)) for token in forged]

        async def asked() -> bool:
            return issuer.fetched > before

        await eventually(asked, "the issuer to be asked")
        # then tokens that were never seen before are verified at once
        async with asyncio.timeout(2):
            for token in valid:
                assert (await verifier.verify(token)).subject == "alice"
        assert [task for task in flood if task.done()] == []
        # and when it answers, all of the flood was worth one fetch, and so is what comes after it
        issuer.holding.set()
        ended = await asyncio.gather(*flood, return_exceptions=True)
        assert {type(one) for one in ended} == {BadToken}
        async with asyncio.timeout(2):
            for token in forged:
                with pytest.raises(Unauthenticated):
                    await verifier.verify(token)
        assert issuer.fetched == before + 1


async def test_an_issuer_that_drips_its_keys_is_given_up(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "FETCH_TIMEOUT_S", 1.0)
    monkeypatch.setattr(auth, "RETRY_S", 0.02)
    issuer.drips = True
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):

        async def asked_again() -> bool:
            return issuer.fetched >= 2

        await eventually(asked_again, "the issuer to be asked again")
        issuer.drips = False
        await watched(verifier)


def unpublished(issuer: Issuer, key: rsa.RSAPrivateKey, key_id: str) -> str:
    """A token that is good but for its key, which the issuer does not publish."""
    claims = {"iss": issuer.url, "sub": "alice", "exp": int(time.time()) + 60}
    return f"Bearer {jwt.encode(claims, key, 'RS256', headers={'kid': key_id})}"


BROKEN_KEY_SETS = [[], None, "keys", {"keys": []}, {"keys": None}, {"keys": [1]}, {"keys": [{}]}]


async def test_a_broken_key_set_replaces_no_good_one(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REFRESH_S", 0.01)
    monkeypatch.setattr(auth, "RETRY_S", 0.01)
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        issuer.broken = list(BROKEN_KEY_SETS)

        async def recovered() -> bool:
            assert verifier.check() is None
            return not issuer.broken

        await eventually(recovered, "the key set to be good again")
        assert (await verifier.verify(issuer.token())).subject == "alice"


@pytest.mark.accept("6.D4")
async def test_a_token_is_believed_for_five_minutes_at_most(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = TokenVerifier(issuer.url)
    async with in_background(verifier.run()):
        await watched(verifier)
        now = time.time()
        for lifetime_s, believed_s in ((3600, 300), (60, 60)):
            token = issuer.token(exp=int(now) + lifetime_s)
            await verifier.verify(token)
            with monkeypatch.context() as clock:
                clock.setattr(auth, "time", lambda at=now + believed_s - 5: at)
                assert verifier.remembered(token) is not None
                clock.setattr(auth, "time", lambda at=now + believed_s + 1: at)
                assert verifier.remembered(token) is None


@pytest.mark.accept("6.D4")
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_token_is_forgotten_when_its_key_goes(
    issuer: Issuer, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REFRESH_S", 0.1)
    issuer.keys["k2"] = rsa.generate_private_key(65537, 2048)
    verifier = TokenVerifier(issuer.url)
    with structlog.testing.capture_logs() as logs:
        async with in_background(verifier.run()):
            await watched(verifier)
            token, other = issuer.token("k1"), issuer.token("k2")
            await verifier.verify(token)
            await verifier.verify(other)
            del issuer.keys["k1"]
            if replaced:  # by another key of the same name
                issuer.keys["k1"] = rsa.generate_private_key(65537, 2048)

            async def forgotten() -> bool:
                return verifier.remembered(token) is None

            await eventually(forgotten, "the token to be forgotten")
            assert verifier.remembered(other) is not None
            with pytest.raises(Unauthenticated):
                await verifier.verify(token)
    [said] = [entry for entry in logs if entry["event"] == "keys of the issuer withdrawn"]
    assert (said["keys"], said["tokens_forgotten"]) == (["k1"], 1)
