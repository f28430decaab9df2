"""The api's rate limits: by user and class of cost, and on new users by issuer and address."""

import httpx
import pytest
from webhost_contracts.api_keys import SECRET_BYTES, token_of

from tests.integration.api.harness import MISSING, Harness, User, ok, problem

LIMITS = {"READS_PER_MINUTE": "3", "WRITES_PER_MINUTE": "2", "DEPLOYS_PER_MINUTE": "1"}


def limited(response: httpx.Response, policy: str, quota: str) -> None:
    """The answer is a refusal of this policy."""
    error = problem(response, 429, "RATE_LIMITED")
    assert error["retryable"] is True
    wait_s = int(response.headers["Retry-After"])
    assert wait_s >= 1
    assert response.headers["RateLimit"] == f'"{policy}";r=0;t={wait_s}'
    assert response.headers["RateLimit-Policy"] == f'"{policy}";{quota}'


@pytest.fixture
async def restarted(own_harness: Harness) -> Harness:
    """A harness whose api is to be started by the test."""
    await own_harness.service.stop()
    return own_harness


@pytest.mark.accept("6.C1", "2.rate-limit")
async def test_reads_writes_and_deploys_are_limited_apart(restarted: Harness) -> None:
    await restarted.start(**LIMITS)
    user, other = restarted.user(), restarted.user()
    agent = await user.create()
    await user.deploy(agent["id"])
    limited(await user.http.post(f"/v1/agents/{agent['id']}/deploy"), "deploys", "q=1;w=60")
    await user.create()
    # What is over the limit is refused unread, and changes nothing.
    limited(await user.http.post("/v1/agents", content=b"{"), "writes", "q=2;w=60")
    limited(await user.http.delete(f"/v1/agents/{agent['id']}"), "writes", "q=2;w=60")
    assert (await user.agent(agent["id"]))["status"] != "deleted"
    assert len(ok(await user.http.get("/v1/agents"))["agents"]) == 2
    await user.agent(agent["id"])
    limited(await user.http.get("/v1/me"), "reads", "q=3;w=60")
    await other.create()
    ok(await other.http.get("/v1/me"))


async def test_a_refusal_is_readable_by_the_dashboard(restarted: Harness) -> None:
    await restarted.start(READS_PER_MINUTE="1")
    user = restarted.user()
    ok(await user.http.get("/v1/me"))
    refused = await user.http.get("/v1/me", headers={"Origin": "https://app.example"})
    limited(refused, "reads", "q=1;w=60")
    assert "RateLimit-Policy" in refused.headers["Access-Control-Expose-Headers"]


async def first_request(harness: Harness, *, client: str | None = None) -> tuple[User, int]:
    """A new subject's first request, from this address as a proxy would say; its status."""
    user = harness.user()
    headers = {} if client is None else {"X-Forwarded-For": client}
    response = await user.http.get("/v1/me", headers=headers)
    if response.status_code == 429:
        limited(response, *_registrations(response))
    else:
        ok(response)
    return user, response.status_code


def _registrations(response: httpx.Response) -> tuple[str, str]:
    policy, _, quota = response.headers["RateLimit-Policy"].partition(";")
    return policy.strip('"'), quota


@pytest.mark.accept("6.C1")
async def test_new_users_of_one_address_are_limited_and_known_ones_are_not(
    restarted: Harness,
) -> None:
    limits = {"REGISTRATIONS_PER_HOUR_AND_ADDRESS": "2"}
    await restarted.start(**limits, TRUSTED_PROXIES="127.0.0.1")
    known, status = await first_request(restarted, client="192.0.2.1")
    assert status == 200
    assert (await first_request(restarted, client="192.0.2.1"))[1] == 200
    newcomer, status = await first_request(restarted, client="192.0.2.1")
    assert status == 429
    # What a client says of itself stands left of what the proxy says.
    assert (await first_request(restarted, client="198.51.100.9, 192.0.2.1"))[1] == 429
    assert (await first_request(restarted, client="192.0.2.2"))[1] == 200
    # One network of IPv6 is one address.
    for number, expected in ((1, 200), (2, 200), (3, 429)):
        assert (await first_request(restarted, client=f"2001:db8::{number}"))[1] == expected
    assert (await first_request(restarted, client="2001:db8:0:1::1"))[1] == 200
    count = await restarted.scalar("SELECT count(*) FROM users")
    assert count == 6
    ok(await known.http.get("/v1/me", headers={"X-Forwarded-For": "192.0.2.1"}))
    ok(await newcomer.http.get("/v1/me", headers={"X-Forwarded-For": "192.0.2.3"}))

    # Whom an api does not remember is not new.
    await restarted.service.stop()
    await restarted.start(**limits, TRUSTED_PROXIES="127.0.0.1")
    for _ in range(2):
        assert (await first_request(restarted, client="192.0.2.1"))[1] == 200
    assert (await first_request(restarted, client="192.0.2.1"))[1] == 429
    known = restarted.client(Authorization=known.http.headers["Authorization"])
    ok(await known.get("/v1/me", headers={"X-Forwarded-For": "192.0.2.1"}))


@pytest.mark.accept("6.C1")
async def test_a_stated_address_counts_only_from_a_trusted_proxy(restarted: Harness) -> None:
    await restarted.start(REGISTRATIONS_PER_HOUR_AND_ADDRESS="2")
    statuses = [
        (await first_request(restarted, client=f"192.0.2.{number}"))[1] for number in range(3)
    ]
    assert statuses == [200, 200, 429]


@pytest.mark.accept("6.C1")
async def test_new_users_of_one_issuer_are_limited(restarted: Harness) -> None:
    await restarted.start(REGISTRATIONS_PER_HOUR="2", TRUSTED_PROXIES="127.0.0.0/8")
    statuses = [
        (await first_request(restarted, client=f"192.0.2.{number}"))[1] for number in range(3)
    ]
    assert statuses == [200, 200, 429]


@pytest.mark.accept("6.C1")
async def test_made_up_keys_of_one_address_are_limited_and_good_ones_are_not(
    restarted: Harness,
) -> None:
    await restarted.start(UNKNOWN_KEYS_PER_MINUTE_AND_ADDRESS="3", TRUSTED_PROXIES="127.0.0.1")
    one, another = ({"X-Forwarded-For": f"192.0.2.{number}"} for number in (1, 2))
    user = restarted.user()
    good, revoked = await user.key("read"), await user.key("read")
    for key in (good, revoked):
        ok(await key.http.get("/v1/me", headers=one))
    ok(await user.http.delete(f"/v1/keys/{revoked.id}"), 204)
    problem(await revoked.http.get("/v1/me", headers=one), 401, "UNAUTHENTICATED")
    # when keys come that are not good, well-formed ones
    made_up = restarted.with_token(token_of(f"key_{MISSING}", bytes(SECRET_BYTES)))
    problem(await made_up.get("/v1/me", headers=one), 401, "UNAUTHENTICATED")
    # then no more of them are looked up, whether there are such keys or not
    for client in (made_up, revoked.http):
        limited(await client.get("/v1/me", headers=one), "unknown-keys", "q=3;w=60")
    # and what was good goes on, as does another address
    ok(await good.http.get("/v1/me", headers=one))
    ok(await user.http.get("/v1/me", headers=one))
    problem(await made_up.get("/v1/me", headers=another), 401, "UNAUTHENTICATED")
