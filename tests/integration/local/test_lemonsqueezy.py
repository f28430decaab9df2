"""What stands in for LemonSqueezy answers, tells and shows as it does."""

import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from webhost_local.lemonsqueezy.app import build
from webhost_local.lemonsqueezy.shop import Shop
from webhost_local.lemonsqueezy.store import Store
from webhost_local.lemonsqueezy.webhooks import RETRY_S, Webhooks
from webhost_local.ports import free_port

from tests.support.serving import serving

KEY, SECRET = "the key", b"the secret"
JSON_API = "application/vnd.api+json"
CUSTOM = {"user_id": "usr_x", "seats": 5}


@dataclass
class Told:
    """What the webhook was sent; `answers` come first, then 200."""

    answers: list[int | None] = field(default_factory=list[int | None])
    sent: list[tuple[bytes, Mapping[str, str]]] = field(
        default_factory=list[tuple[bytes, Mapping[str, str]]]
    )

    async def post(self, body: bytes, headers: Mapping[str, str]) -> int | None:
        self.sent.append((body, headers))
        return self.answers.pop(0) if self.answers else 200

    def bodies(self) -> dict[str, Any]:
        """By event name, the last of each."""
        return {headers["X-Event-Name"]: json.loads(body) for body, headers in self.sent}


@dataclass
class Running:
    http: httpx.AsyncClient
    api: httpx.AsyncClient
    shop: Shop
    told: Told
    file: Path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Running]:
    told, file, port = Told(), tmp_path / "store.json", free_port()
    webhooks = Webhooks(told.post, SECRET, (0.001, 0.002, 0.003))
    shop = Shop(Store(file), webhooks, f"http://127.0.0.1:{port}")
    headers = {"Authorization": f"Bearer {KEY}", "Accept": JSON_API, "Content-Type": JSON_API}
    async with (
        serving(build(shop, KEY), port) as url,
        httpx.AsyncClient(base_url=url) as http,
        httpx.AsyncClient(base_url=url, headers=headers) as api,
    ):
        yield Running(http, api, shop, told, file)
        await webhooks.close()


def wanted(variant: Any = "1002", store_id: Any = "1") -> dict[str, Any]:
    return {
        "data": {
            "type": "checkouts",
            "attributes": {"checkout_data": {"custom": CUSTOM}},
            "relationships": {
                "store": {"data": {"type": "stores", "id": store_id}},
                "variant": {"data": {"type": "variants", "id": variant}},
            },
        }
    }


async def bought(store: Running) -> str:
    """Buy on the page; return the path of the subscription."""
    made = await store.api.post("/v1/checkouts", json=wanted())
    assert made.status_code == 201, made.text
    url = made.json()["data"]["attributes"]["url"]
    assert "Pay $49.00" in (await store.http.get(url)).text
    paid = await store.http.post(url, data={"email": "a@b.c", "name": "<b>"})
    assert paid.status_code == 303
    await store.shop.webhooks.idle()
    return paid.headers["Location"].rpartition("/")[2]


async def test_a_purchase_is_told_as_documented(store: Running) -> None:
    number = await bought(store)
    for body, headers in store.told.sent:
        assert headers["X-Signature"] == hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    bodies = store.told.bodies()
    assert set(bodies) == {
        *("order_created", "subscription_created", "subscription_payment_success"),
    }
    created = bodies["subscription_created"]
    # Numbers in custom data come back as text.
    assert created["meta"]["custom_data"] == {"user_id": "usr_x", "seats": "5"}
    assert (created["data"]["type"], created["data"]["id"]) == ("subscriptions", number)
    attributes = created["data"]["attributes"]
    assert attributes["variant_id"] == 1002
    assert attributes["updated_at"].endswith(".000000Z")
    invoice = bodies["subscription_payment_success"]["data"]
    assert invoice["type"] == "subscription-invoices"
    assert str(invoice["attributes"]["subscription_id"]) == number
    page = (await store.http.get(f"/billing/{number}")).text
    assert "Cancel" in page
    # An API object has no custom data.
    listed = (await store.api.get("/v1/subscriptions?page[size]=1")).json()
    assert listed["meta"]["page"] == {
        "currentPage": 1,
        "from": 1,
        "lastPage": 1,
        "perPage": 1,
        "to": 1,
        "total": 1,
    }
    assert "usr_x" not in json.dumps(listed)
    assert listed["data"][0]["attributes"] == attributes
    assert Store(store.file).subscription(int(number)) is not None


async def test_changes_are_told_with_the_event_for_all_of_them(store: Running) -> None:
    number = await bought(store)
    one = f"/v1/subscriptions/{number}"

    async def patched(**attributes: Any) -> str:
        body = {"data": {"type": "subscriptions", "id": number, "attributes": attributes}}
        answer = await store.api.patch(one, json=body)
        assert answer.status_code == 200, answer.text
        await store.shop.webhooks.idle()
        return answer.json()["data"]["attributes"]["status"]

    for attributes, status, event in (
        ({"variant_id": 1003}, "active", "subscription_plan_changed"),
        ({"pause": {"mode": "void"}}, "paused", "subscription_paused"),
        ({"pause": None}, "active", "subscription_unpaused"),
        ({"cancelled": True}, "cancelled", "subscription_cancelled"),
        ({"cancelled": False}, "active", "subscription_resumed"),
    ):
        store.told.sent.clear()
        assert await patched(**attributes) == status
        assert set(store.told.bodies()) == {event, "subscription_updated"}
    times = [store.shop.store.subscriptions[0].updated_at]
    assert (await store.api.delete(one)).json()["data"]["attributes"]["cancelled"] is True
    assert store.shop.store.subscriptions[0].updated_at > times[0]
    refused = await store.http.post(f"/billing/{number}/renew")
    assert (refused.status_code, "cannot do this" in refused.text) == (409, True)


async def test_a_delivery_is_tried_four_times_and_only_200_is_success(store: Running) -> None:
    assert RETRY_S == (5, 25, 125)
    store.told.answers = [201, None, 500, 204] * 3
    number = await bought(store)
    assert len(store.told.sent) == 12
    assert [one.succeeded for one in store.shop.webhooks.attempted] == [False] * 3
    assert "dropped" in (await store.http.get("/")).text
    store.told.sent.clear()
    [*_, first] = store.shop.webhooks.attempted
    again = await store.http.post(f"/deliveries/{first.number}/again")
    await store.shop.webhooks.idle()
    assert (again.status_code, len(store.told.sent)) == (303, 1)
    assert store.told.sent[0][0] == first.body
    assert first.subscription_id == int(number)


async def test_the_api_refuses_as_it_is_documented(store: Running) -> None:
    async def status(**headers: str) -> int:
        return (await store.api.post("/v1/checkouts", json=wanted(), headers=headers)).status_code

    assert await status(Authorization="Bearer other") == 401
    assert await status(Accept="text/html") == 406
    assert await status(**{"Content-Type": "application/json"}) == 415
    for body in (wanted(variant="7"), wanted(store_id="2"), {"data": {}}, {}):
        answer = await store.api.post("/v1/checkouts", json=body)
        assert answer.status_code == 422, body
        assert answer.json()["errors"][0]["status"] == "422"
        assert answer.headers["content-type"] == JSON_API
    for path in ("/v1/checkouts/none", "/v1/subscriptions/1"):
        assert (await store.api.get(path)).status_code == 404
    assert store.shop.store.checkouts == {}
    assert (await store.http.get("/", headers={"Host": "evil.example"})).status_code == 400
    foreign = {"Sec-Fetch-Site": "cross-site"}
    number = await bought(store)
    answer = await store.http.post(f"/billing/{number}/cancel", headers=foreign)
    assert answer.status_code == 403
    assert (await store.http.get("/checkout/custom/none")).status_code == 404


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "store.example:1"])
def test_it_listens_on_loopback_alone(listen: str, tmp_path: Path) -> None:
    env = {
        "STORE_LISTEN": listen,
        "STORE_DATA_DIR": str(tmp_path),
        "STORE_API_KEY": KEY,
        "STORE_WEBHOOK_URL": "http://127.0.0.1:1",
        "STORE_WEBHOOK_SECRET": "s",
    }
    command = [sys.executable, "-m", "webhost_local.lemonsqueezy"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "refuses to listen" in ended.stderr
