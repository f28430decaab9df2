"""An upgrade with a new version of an event, service by service, as its runbook says."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from webhost_contracts import maintenance

from tests.support.caller import Caller
from tests.support.deadline import until
from tests.support.history import history_of, is_whole
from tests.support.keys import StackKeys
from tests.support.releases import Releases
from tests.support.runbook import RUNBOOKS, Runbook
from tests.support.stack import Stack, running_stack

PAGE = "upgrade.md"
NEW = "agent.disabled.v2"
NOTICED_S = 20
SETTLED_S = 30
[_SERVICES] = re.findall(r"in this order: \*\*(.+?)\*\*", (RUNBOOKS / PAGE).read_text("utf-8"))
IN_ORDER = _SERVICES.split(", ")


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path, "events/agent.py", "agent.disabled")


@pytest.fixture
def stack(releases: Releases) -> Iterator[Stack]:
    with running_stack(python=releases.python) as running:
        yield running


@pytest.fixture
def upgrade(stack: Stack, releases: Releases) -> Callable[[str], None]:
    """What replaces a service's process by one of the next release."""

    def upgraded(service: str) -> None:
        releases.upgrade(service)
        stack.kill(service)

    return upgraded


def an_agent(stack: Stack) -> tuple[Caller, str]:
    caller = stack.caller()
    agent = caller.create_agent()["id"]
    caller.deploy(agent)
    caller.invoke(agent, "It answers.")
    return caller, agent


def until_refused(caller: Caller, agent: str) -> None:
    until(
        lambda: caller.post_invoke(agent, "Still?").status_code == 403,
        "the gateway to know that it is disabled",
        seconds=NOTICED_S,
    )


def stated(stack: Stack, user_id: str) -> set[str]:
    return {fact.type_name for fact in history_of(stack, user_id)}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_upgrade_in_the_pages_order_parks_nothing(
    stack: Stack, upgrade: Callable[[str], None], tmp_path: Path
) -> None:
    caller, agent = an_agent(stack)
    user_id = caller.me()["id"]
    with Runbook(stack, PAGE, "Upgrade", tmp_path) as runbook:
        runbook.rest(within=SETTLED_S)
    assert sorted(IN_ORDER) == sorted(maintenance.SERVICES)
    for service in IN_ORDER:
        databases = StackKeys(stack).databases(service)
        with Runbook(stack, PAGE, "Steps", tmp_path, databases) as runbook:
            runbook.step({"SERVICE": service})
            upgrade(service)
            if service == "api":  # which states the new version from now on
                assert caller.post_invoke(agent, "Meanwhile?").status_code == 200
                caller.http.post(f"/v1/agents/{agent}/disable").raise_for_status()
                until(lambda: NEW in stated(stack, user_id), "the new version to be stated")
            runbook.rest(within=SETTLED_S)
    until_refused(caller, agent)
    with Runbook(stack, PAGE, "How to see that it worked", tmp_path) as runbook:
        runbook.rest()
    until(lambda: is_whole(stack, user_id), "an unbroken history")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_is_stated_too_early_is_parked_until_its_reader_is_upgraded(
    stack: Stack, upgrade: Callable[[str], None], tmp_path: Path
) -> None:
    caller, agent = an_agent(stack)
    upgrade("api")
    caller.http.post(f"/v1/agents/{agent}/disable").raise_for_status()
    with Runbook(stack, PAGE, "If events are parked", tmp_path) as runbook:
        runbook.step({"TYPE": NEW}, within=SETTLED_S)
        assert caller.post_invoke(agent, "Not known yet?").status_code == 200
        for service in ("gateway", "telemetry-ingest", "billing", "deployer"):
            upgrade(service)
        runbook.rest(within=SETTLED_S)
    until_refused(caller, agent)
