"""The development issuer as a browser and a service meet it."""

import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from webhost_local.child import tied_to_parent
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity

from tests.support.deadline import until

WEBHOST = Path(sys.executable).with_name("webhost")
APP = "http://localhost:5173"
BACK = f"{APP}/callback"
VERIFIER = base64.urlsafe_b64encode(b"a verifier of the right length..").decode().rstrip("=")
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:43]
REQUEST = {
    "response_type": "code",
    "client_id": "dashboard",
    "redirect_uri": BACK,
    "scope": "openid email",
    "state": "st<&>ate",
    "nonce": "n-1",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("issuer")


@pytest.fixture(scope="module")
def issuer(data_dir: Path) -> Iterator[httpx.Client]:
    url = IssuerIdentity.load_or_make(DataDir(data_dir)).url
    process = subprocess.Popen(
        [sys.executable, "-m", "webhost_local.issuer"],
        env=os.environ | {"ISSUER_DATA_DIR": str(data_dir), "CORS_ALLOWED_ORIGINS": APP},
        preexec_fn=tied_to_parent(),
    )
    with httpx.Client(base_url=url) as client:
        until(lambda: _answers(client), "the issuer to answer")
        yield client
    process.terminate()
    process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def verified(issuer: httpx.Client, token: str, audience: str | None = None) -> dict[str, object]:
    """The claims of a token, checked as a service does it: by discovery and JWKS."""
    discovery = issuer.get("/.well-known/openid-configuration").json()
    keys = jwt.PyJWKSet.from_dict(issuer.get(discovery["jwks_uri"]).json())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        issuer=discovery["issuer"],
        audience=audience,
        options={"require": ["iss", "sub", "iat", "exp"]},
    )


def sign_in(issuer: httpx.Client, **changed: str) -> dict[str, str]:
    form = REQUEST | {"subject": "alice", "email": "alice@example.com"} | changed
    answer = issuer.post("/authorize", data=form)
    assert answer.status_code == 303
    target = urlsplit(answer.headers["location"])
    assert f"{target.scheme}://{target.netloc}{target.path}" == BACK
    return {name: values[0] for name, values in parse_qs(target.query).items()}


def exchange(issuer: httpx.Client, code: str, **changed: str) -> httpx.Response:
    form = {
        "grant_type": "authorization_code",
        "client_id": "dashboard",
        "redirect_uri": BACK,
        "code": code,
        "code_verifier": VERIFIER,
    }
    return issuer.post("/token", data=form | changed, headers={"Origin": APP})


def test_code_and_pkce_give_tokens_that_verify(issuer: httpx.Client) -> None:
    answer = sign_in(issuer)
    assert answer["state"] == REQUEST["state"]
    response = exchange(issuer, answer["code"])
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == APP
    tokens = response.json()
    claims = verified(issuer, tokens["access_token"])
    assert (claims["sub"], claims["email"]) == ("alice", "alice@example.com")
    assert "aud" not in claims
    assert verified(issuer, tokens["id_token"], audience="dashboard")["nonce"] == "n-1"
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert issuer.get("/userinfo", headers=bearer).json()["sub"] == "alice"
    assert exchange(issuer, answer["code"]).json()["error"] == "invalid_grant"


def test_a_stolen_code_is_worth_nothing(issuer: httpx.Client) -> None:
    code = sign_in(issuer)["code"]
    assert exchange(issuer, code, code_verifier="x" * 43).status_code == 400


def test_the_page_carries_the_request_and_escapes_it(issuer: httpx.Client) -> None:
    page = issuer.get("/authorize", params=REQUEST)
    assert page.status_code == 200
    assert "there is\nno password" in page.text
    assert 'name="state" value="st&lt;&amp;&gt;ate"' in page.text


def test_errors_go_where_they_may(issuer: httpx.Client) -> None:
    assert sign_in(issuer, code_challenge_method="plain")["error"] == "invalid_request"
    foreign = issuer.post("/authorize", data=REQUEST | {"redirect_uri": "https://evil.example/"})
    assert foreign.status_code == 400
    assert "location" not in foreign.headers
    rebound = issuer.get("/authorize", params=REQUEST, headers={"Host": "evil.example"})
    assert rebound.status_code == 400
    other_site = issuer.get("/jwks", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other_site.headers
    assert issuer.get("/userinfo").status_code == 401


def test_the_token_command_prints_a_token_and_nothing_else(
    issuer: httpx.Client, data_dir: Path
) -> None:
    command = [WEBHOST, "token", "bob", "--name", "Bob", "--expires-in", "60"]
    result = subprocess.run(
        [*command, "--data-dir", data_dir], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    claims = verified(issuer, result.stdout.removesuffix("\n"))
    assert (claims["sub"], claims["name"]) == ("bob", "Bob")
    assert isinstance(claims["exp"], int)
    assert isinstance(claims["iat"], int)
    assert claims["exp"] - claims["iat"] == 60


def test_it_refuses_to_be_reached_from_elsewhere(data_dir: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "webhost_local.issuer"],
        env=os.environ | {"ISSUER_DATA_DIR": str(data_dir), "ISSUER_LISTEN": "0.0.0.0:0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert result.returncode == 1
    assert "refuses to listen on 0.0.0.0" in result.stderr
