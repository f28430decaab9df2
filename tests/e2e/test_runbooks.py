"""Runbooks, followed on a running stack by the commands that they give. Others are followed where
their cases are tested: `test_restore`, `test_rebuild`, `test_rotation`, `test_deadletters`,
`test_upgrade`, `test_change_of_layout`.
"""

import json
import os
import secrets
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from webhost_contracts import ids
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_local import kept_identities
from webhost_local.data_dir import DataDir

from tests.e2e.test_payments import bought, checkout, paid, press, until_tier
from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.runbook import Runbook
from tests.support.stack import Stack, running_stack

COUNTED_S = 30
CALLS = 3

Follow = Callable[[str, str], Runbook]


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    with running_stack() as running:
        yield running


@pytest.fixture
def follow(own_stack: Stack, tmp_path: Path) -> Follow:
    return lambda page, section: Runbook(own_stack, page, section, tmp_path)


def execute(stack: Stack, statement: str, *values: str) -> int:
    with psycopg.connect(stack.status()["postgresDsn"], autocommit=True) as connection:
        return connection.execute(statement.encode(), values).rowcount


def deployed(caller: Caller) -> tuple[str, str]:
    """An agent that answers, and its deployment."""
    agent = caller.create_agent()["id"]
    return agent, caller.deploy(agent)["id"]


def called(caller: Caller, agent: str) -> None:
    """Call it for the first time; return when both reports of each call are counted."""
    for _ in range(CALLS):
        caller.invoke(agent, "Count this one.")
    until(
        lambda: [event["source"] for event in caller.recent_calls()] == ["both"] * CALLS,
        "both reports of every call",
        seconds=COUNTED_S,
    )


def test_the_commands_find_a_stack(follow: Follow) -> None:
    with follow("README.md", "Before you begin") as runbook:
        runbook.rest()


def audit(caller: Caller) -> set[str]:
    return {entry["action"] for entry in caller.http.get("/v1/audit").json()["entries"]}


@pytest.mark.accept("A1")
def test_a_projection_is_replayed(own_stack: Stack, follow: Follow) -> None:
    caller = own_stack.caller()
    agent, deployment = deployed(caller)
    until(lambda: "deployment.activated" in audit(caller), "the audit to have it")
    truth = audit(caller)
    called(caller, agent)
    assert execute(own_stack, "DELETE FROM api.history WHERE user_id = %s", caller.me()["id"])
    assert execute(
        own_stack, "DELETE FROM gateway.routed_deployments WHERE deployment_id = %s", deployment
    )
    own_stack.kill("gateway")  # it answers from memory until then
    assert caller.post_invoke(agent, "Is anybody there?").status_code != 200
    assert audit(caller) == set()
    for projection in ("api.history", "gateway.routes"):
        with follow("replay-projection.md", "Steps") as runbook:
            runbook.rest({"PROJECTION": projection})
        with follow("replay-projection.md", "How to see that it worked") as runbook:
            runbook.rest({"PROJECTION": projection}, within=COUNTED_S)
    until(lambda: audit(caller) == truth, "the audit of before", seconds=COUNTED_S)
    own_stack.kill("gateway")
    assert caller.post_invoke(agent, "And now?").status_code == 200


class Cloudflare:
    """The account, as its owner changes it behind the deployer's back."""

    def __init__(self, stack: Stack) -> None:
        found = stack.status()["cloudflare"]
        namespace = os.environ.get("CLOUDFLARE_DISPATCH_NAMESPACE")
        place = f"/dispatch/namespaces/{namespace}" if namespace else ""
        self._url = f"{found['apiBaseUrl']}/accounts/{found['accountId']}/workers{place}/scripts"
        self._headers = {"Authorization": f"Bearer {found['apiToken']}"}
        known = kept_identities.load_or_make(DataDir.at(stack.data_dir))
        self._installation = known.installation_id

    def put(self, name: str, deployment_id: str) -> None:
        """Upload a script that says it is of this deployment."""
        tags = [f"installation-{self._installation}", f"deployment-{deployment_id}"]
        described = {"main_module": "m.mjs", "compatibility_date": "2026-01-01", "tags": tags}
        code = "export default { fetch: () => new Response() };"
        files = {
            "metadata": (None, json.dumps(described)),
            "m.mjs": ("m.mjs", code, "application/javascript+module"),
        }
        self._call("PUT", name, files=files)

    def delete(self, name: str) -> None:
        self._call("DELETE", name, params={"force": "true"})

    def _call(self, method: str, name: str, **content: Any) -> None:
        url = f"{self._url}/{name}"
        httpx.request(method, url, headers=self._headers, **content).raise_for_status()


@pytest.mark.accept("8.reconciliation")
def test_cloudflare_is_reconciled(own_stack: Stack, follow: Follow) -> None:
    caller, account = own_stack.caller(), Cloudflare(own_stack)
    agent, deployment = deployed(caller)
    orphan = f"whs-{ids.suffix(new_id(ids.AGENT, now_ms()))}-{secrets.token_hex(4)}"
    account.put(orphan, new_id(ids.DEPLOYMENT, now_ms()))
    account.delete(f"whs-{ids.suffix(agent)}-{ids.suffix(deployment)}-code")
    with follow("reconcile-cloudflare.md", "Steps") as runbook:
        runbook.rest({"ORPHAN": orphan, "DEPLOYMENT": deployment})
    caller.http.delete(f"/v1/agents/{agent}").raise_for_status()
    with follow("reconcile-cloudflare.md", "How to see that it worked") as runbook:
        runbook.rest(within=COUNTED_S)


@contextmanager
def without_deliveries(stack: Stack) -> Generator[None]:
    """What LemonSqueezy delivers meanwhile arrives nowhere, ever."""
    before = stack.pids()
    os.kill(before["billing"], signal.SIGSTOP)
    try:
        yield
    finally:
        # What the one would have tried again is lost, and what the other was handed meanwhile.
        for name in ("lemonsqueezy", "billing"):
            os.kill(before[name], signal.SIGKILL)
            stack.until_replaced({name: before[name]})
    stack.until_ready()


@pytest.mark.accept("8.6.checkout")
def test_billing_is_reconciled(own_stack: Stack, follow: Follow) -> None:
    caller, other = own_stack.caller("known"), own_stack.caller("unlucky")
    page = bought(own_stack, "known", "starter")
    until_tier(caller, "starter")
    link = checkout(own_stack, "unlucky", "pro")
    with without_deliveries(own_stack):
        press(page, "to-pro")
        lost = paid(link, "unlucky@example.com")
    names = {"SUBSCRIPTION": number_of(page), "USER_ID": caller.me()["id"]}
    with follow("reconcile-billing.md", "Steps") as runbook:
        runbook.step(names)
        assert caller.me()["tier"] == "starter", "a dry run changes nothing"
        runbook.step(names)
    until_tier(caller, "pro")
    nobodys = {"SUBSCRIPTION": number_of(lost)}
    with follow("reconcile-billing.md", "Nobody's subscriptions") as runbook:
        runbook.step({"EMAIL": "unlucky@example.com", **nobodys})
        runbook.step({"USER_ID": other.me()["id"], **nobodys})
    until_tier(other, "pro")
    with follow("reconcile-billing.md", "How to see that it worked") as runbook:
        runbook.rest()


def number_of(page: str) -> str:
    """The subscription whose page this is."""
    return page.rstrip("/").rpartition("/")[2]
