"""From the command line through the payment page to a higher limit, and what is forged on the way.

The page is that of what stands in for LemonSqueezy in the local stack, used as a browser does.
"""

import asyncio
import json
import random
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from webhost_local import kept_identities
from webhost_local.data_dir import DataDir
from webhost_local.lemonsqueezy.model import VARIANTS

from tests.e2e.test_limits import SPENDING, deployed
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.keys import StackKeys
from tests.support.stack import Stack

IN_FORCE_S = 10
WEBHOOK = "/v1/billing/webhook"
BAD = {400: "INVALID_REQUEST", 401: "UNAUTHENTICATED", 413: "PAYLOAD_TOO_LARGE"}


def bought(stack: Stack, subject: str, tier: str) -> str:
    """Buy a tier as a user of the command line does; return the page of the subscription."""
    page = paid(checkout(stack, subject, tier), f"{subject}@example.com")
    assert VARIANTS[tier].name in httpx.get(page, timeout=10).text
    return page


def checkout(stack: Stack, subject: str, tier: str) -> str:
    """The page on which to pay for this tier."""
    return stack.webhost("billing", "checkout", tier, "--as", subject).stdout.strip()


def paid(url: str, email: str) -> str:
    """Pay on this page; return that of the subscription."""
    with httpx.Client(timeout=10) as browser:
        page = browser.get(url)
        assert page.status_code == 200
        assert "no money moves" in page.text
        [form] = re.findall(r"<form method=\"post\">.*?</form>", page.text, re.DOTALL)
        assert 'name="email"' in form
        answer = browser.post(url, data={"email": email, "name": "Kim"})
        assert answer.status_code == 303, answer.text
    return str(httpx.URL(url).join(answer.headers["Location"]))


def press(page: str, action: str) -> None:
    answer = httpx.post(f"{page}/{action}", timeout=10)
    assert answer.status_code == 303, answer.text


def until_tier(caller: Caller, tier: str) -> None:
    until(lambda: caller.me()["tier"] == tier, f"the tier {tier}", seconds=IN_FORCE_S)


def status_of(caller: Caller) -> str:
    return caller.http.get("/v1/billing/subscription").json()["subscription"]["status"]


def subscription(stack: Stack, subject: str) -> dict[str, Any]:
    ended = stack.webhost("billing", "subscription", "--as", subject, "--json")
    return json.loads(ended.stdout)["subscription"]


@pytest.mark.accept("8.6.checkout")
def test_a_purchase_raises_the_limits_that_calls_are_stopped_by(stack: Stack) -> None:
    subject = f"buyer-{secrets.token_hex(4)}"
    caller = stack.caller(subject)
    agent_id = deployed(caller, SPENDING)
    caller.invoke(agent_id, "Spend it.")
    until(
        lambda: caller.post_invoke(agent_id, "More.").status_code == 402,
        "the free tier's tokens to be spent",
        seconds=20,
    )
    assert "2,000,000" in stack.webhost("billing", "tiers", "--as", subject).stdout
    page = bought(stack, subject, "starter")
    until(
        lambda: caller.post_invoke(agent_id, "More.").status_code == 200,
        "calls to be answered again",
        seconds=IN_FORCE_S,
    )
    until(
        lambda: caller.me()["tier"] == "starter",
        "the api to know of the tier too",
        seconds=IN_FORCE_S,
    )
    assert caller.usage()["limits"]["tokens"] == 2_000_000
    found = subscription(stack, subject)
    assert (found["status"], found["tier"], found["active"]) == ("active", "starter", True)

    press(page, "to-pro")
    until_tier(caller, "pro")
    press(page, "cancel")
    until(lambda: status_of(caller) == "cancelled", "the cancellation to be taken over")
    assert caller.me()["tier"] == "pro"
    press(page, "expire")
    until_tier(caller, "free")
    reconciled = json.loads(stack.webhost("billing", "reconcile", "--json").stdout)
    assert reconciled["changed"] == []
    assert reconciled["read"] >= 1
    audited = caller.http.get("/v1/audit", params={"limit": 100}).json()["entries"]
    assert {"checkout.started", "webhook.processed", "subscription.changed", "tier.changed"} <= {
        entry["action"] for entry in audited
    }
    assert not [entry for entry in audited if "signature" in json.dumps(entry)]


def test_the_store_has_its_own_api_for_its_key_alone(stack: Stack) -> None:
    [process] = [it for it in stack.status()["processes"] if it["name"] == "lemonsqueezy"]
    assert process["url"].startswith("http://127.0.0.1:")
    url = f"{process['url']}/v1/subscriptions"
    known = kept_identities.load_or_make(DataDir.at(stack.data_dir))
    headers = {"Accept": "application/vnd.api+json"}
    refused = httpx.get(url, headers=headers | {"Authorization": "Bearer another"})
    assert (refused.status_code, refused.json()["errors"][0]["status"]) == (401, "401")
    key = {"Authorization": f"Bearer {known.lemonsqueezy_api_key}"}
    listed = httpx.get(url, headers=headers | key)
    assert listed.headers["content-type"] == "application/vnd.api+json"
    assert listed.json()["meta"]["page"]["currentPage"] == 1
    foreign = httpx.post(
        f"{process['url']}/billing/1/cancel", headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert foreign.status_code in (403, 404)


def delivery(user_id: str, event: str = "subscription_created") -> bytes:
    """What would put this user on the highest tier, if it were signed."""
    return json.dumps(
        {
            "meta": {"event_name": event, "custom_data": {"user_id": user_id}},
            "data": {
                "type": "subscriptions",
                "id": "77",
                "attributes": {
                    "status": "active",
                    "variant_id": VARIANTS["enterprise"].id,
                    "customer_id": 7,
                    "updated_at": "2027-01-01T00:00:00.000000Z",
                },
            },
        }
    ).encode()


def forged(keys: StackKeys, user_id: str, count: int) -> Iterator[tuple[bytes, list[Any]]]:
    """Deliveries with headers that are nearly right, each kind in turn."""
    chosen = random.Random(8)
    body = delivery(user_id)
    good = keys.webhook_headers(body)["X-Signature"]
    other = keys.webhook_headers(body + b" ")["X-Signature"]
    for number in range(count):
        place = chosen.randrange(1, len(good))
        bit = format(int(good[place], 16) ^ (1 << chosen.randrange(4)), "x")
        flipped = good[:place] + bit + good[place + 1 :]
        at = chosen.randrange(len(body))
        changed = body[:at] + bytes([body[at] ^ (1 << chosen.randrange(8))]) + body[at + 1 :]
        kinds: list[tuple[bytes, list[Any]]] = [
            (body, [flipped]),
            (changed, [good]),
            (body, [other]),
            (body, [good[:place]]),
            (body, [good + good[:place]]),
            (body, [good.upper()]),
            (body, [f"v1={good}"]),
            (body, [b"\xe9" + good[1:].encode()]),
            (body, [good, good]),
            (body, [good, flipped]),
            (body, [flipped, good]),
            (body, [f"{good},{good}"]),
            (body, []),
            (body, [""]),
            (body[:at], [good]),
            (b"\xff" * at, [good]),
            (body, ["0" * (number % 4000)]),
        ]
        yield kinds[number % len(kinds)]


async def sent(origin: str, deliveries: Iterator[tuple[bytes, list[Any]]]) -> Counter[int]:
    """Send all of them, sixteen at a time; count the answers."""
    statuses: Counter[int] = Counter()
    async with httpx.AsyncClient(base_url=origin, timeout=30) as client:

        async def work() -> None:
            for body, signatures in deliveries:
                headers = [("X-Signature", signature) for signature in signatures]
                answer = await client.post(WEBHOOK, content=body, headers=headers)
                statuses[answer.status_code] += 1
                assert answer.json()["error"]["code"] == BAD[answer.status_code]

        await asyncio.gather(*(work() for _ in range(16)))
    return statuses


def check_forgeries(stack: Stack, count: int) -> None:
    caller = stack.caller()
    user_id = caller.me()["id"]
    deliveries = forged(StackKeys(stack), user_id, count)
    with ThreadPoolExecutor(1) as pool:  # a loop of its own, apart from the tests' own one
        statuses = pool.submit(asyncio.run, sent(stack.origin, deliveries)).result()
    print(f"forged webhook signatures: {dict(statuses)}")
    assert statuses == {401: count}
    assert caller.me()["tier"] == "free"
    assert caller.http.get("/v1/billing/subscription").json() == {"subscription": None}
    # The same delivery, signed well, is read; it names its user without our signature, though.
    body = delivery(user_id)
    good = httpx.post(
        f"{stack.origin}{WEBHOOK}", content=body, headers=StackKeys(stack).webhook_headers(body)
    )
    assert (good.status_code, good.json()) == (200, {"outcome": "ignored"})
    assert caller.me()["tier"] == "free"


@pytest.mark.accept("8.6.signed")
def test_no_forged_delivery_is_accepted_or_fails(stack: Stack) -> None:
    check_forgeries(stack, 170)


@pytest.mark.accept("8.6.signed")
@pytest.mark.long
@pytest.mark.timeout(600)
def test_of_ten_thousand_forged_deliveries_none_is_accepted_or_fails(stack: Stack) -> None:
    check_forgeries(stack, 10_000)
