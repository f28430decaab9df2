"""Operators' routes and export on the local stack, from outside, beside users'."""

import json
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_isolation import missing, named, send
from tests.support.deadline import until
from tests.support.openapi import OPERATIONS, Operation
from tests.support.stack import Stack
from tests.support.usage_feed import Reader, read_batch

OF_OPERATORS = tuple(it for it in OPERATIONS if it.path.startswith("/v1/operator/"))
PATH = "/v1/operator/usage-events"


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    shown = stack.webhost("token", "--operator").stdout
    assert shown == shown.strip() + "\n"
    return shown.strip()


@pytest.mark.accept("8.feed.credential")
@pytest.mark.accept("7.isolation")
def test_an_operators_token_opens_nothing_of_users(stack: Stack, token: str) -> None:
    assert [str(it) for it in OF_OPERATORS] == [f"GET {PATH}"]
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=stack.origin, timeout=20, headers=headers) as http:
        for operation in OPERATIONS:
            answer = send(http, operation, missing(named(operation)))
            expected = 200 if operation in OF_OPERATORS else 401
            assert answer.status_code == expected, operation


@pytest.mark.accept("8.feed.credential")
@pytest.mark.accept("7.isolation")
@pytest.mark.parametrize("operation", OF_OPERATORS, ids=str)
def test_an_operators_route_takes_no_credential_of_a_user(
    stack: Stack, operation: Operation
) -> None:
    # Not the operator of NATS, nor a user who calls themselves one.
    for subject in ("a user", "operator", "local"):
        user = stack.caller(subject)
        made = user.http.post("/v1/keys", json={"name": "all of it", "scopes": ["admin"]})
        key = {"Authorization": f"Bearer {made.json()['token']}"}
        for sent in ({}, key):
            answer = send(user.http, operation, {}, headers=sent)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.accept("8.feed.sums")
@pytest.mark.accept("8.export")
def test_usage_comes_out_of_the_feed_and_of_every_export(
    stack: Stack, token: str, tmp_path: Path
) -> None:
    user = stack.caller("somebody who is exported")
    agent = user.create_agent()
    user.deploy(agent["id"])
    for number in range(3):
        user.invoke(agent["id"], f"Hello {number}")
    until(
        lambda: [event["source"] for event in user.recent_calls()] == ["both"] * 3,
        "the calls to be counted",
        seconds=20,
    )
    used = user.usage()
    user_id, period = used["usage"]["userId"], used["periodKey"]

    # through HTTP, as a program would read it
    reader, path = Reader(), f"{PATH}?limit=50"
    with httpx.Client(base_url=stack.origin, headers={"Authorization": f"Bearer {token}"}) as http:
        while path:
            page = http.get(path)
            assert page.status_code == 200, page.text
            reader.take(read_batch(page.content))
            path = page.links.get("next", {}).get("url", "")
        following = http.get(PATH, params={"after": page.headers["X-Webhost-Next-Cursor"]})
        assert following.json() == []
    assert reader.again == []
    ours = reader.totals()[user_id, period, "cloudflare"]
    counted = {name: value for name, value in used["usage"].items() if name in ours}
    assert {name: ours[name] for name in counted} == counted
    cost = Decimal(ours["costPicodollars"]).scaleb(-12)
    assert float(cost) == used["usage"]["costUsdEstimated"]

    # and to files
    exported: dict[str, str] = {}
    for form in ("csv", "jsonl", "cloudevents"):
        out = tmp_path / form
        told = stack.webhost(
            "billing", "export", "--format", form, "--period", period, "--out", str(out)
        )
        assert f"{period}: entries: " in told.stderr
        assert told.stdout == ""
        exported[form] = out.read_text()
    again = Reader()
    again.take(read_batch(exported["cloudevents"]))
    assert again.totals()[user_id, period, "cloudflare"] == ours
    lines = [json.loads(line) for line in exported["jsonl"].splitlines()]
    mine = [line for line in lines if line["userId"] == user_id]
    assert sum(Decimal(line["costUsd"]) for line in mine) == cost
    assert sum(line["requests"] for line in mine) == 3
    assert exported["csv"].count(user_id) == 3
    assert stack.webhost("billing", "export", "--period", period).stdout == exported["csv"]
    nothing = stack.webhost("billing", "export", "--period", "2020-01")
    assert nothing.stdout.count("\n") == 1
    refused = stack.webhost("billing", "export", "--period", "nov", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "write YYYY-MM" in refused.stderr
