"""What of a provider's listing goes, and what stays."""

import pytest
from msgspec.structs import replace
from webhost_deployer.cloudflare.addresses import (
    CustomDomain,
    WorkersDev,
    agent_script_name,
    front_name,
)
from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.cloudflare.orphans import OwnRoute, Plan, own_routes, plan
from webhost_deployer.model import Deployment, Phase

from tests.unit.deployer.samples import AGENT, DEPLOYMENT, begun

TAGS = ("webhost", f"deployment-{DEPLOYMENT}")
SCRIPT = ListedScript(front_name(AGENT, DEPLOYMENT), TAGS)
CODE = ListedScript(agent_script_name(AGENT, DEPLOYMENT), TAGS)
USER_WORKER = ListedScript(CODE.name, TAGS, "customers")
SESSIONS = ListedScript("whs-sessions-1", ("webhost", "platform-v1-00"))
ROUTING = CustomDomain("w.example", "zone")
PATTERN = f"w.example/dep/{DEPLOYMENT}/*"
ROUTE = ListedRoute("r1", PATTERN, SCRIPT.name)
OWN = OwnRoute(ROUTE, SCRIPT.name, DEPLOYMENT, AGENT)
OTHER_AGENT = "agt_01kb000000000000000000000z"
LISTED_AT_MS = 2_000_000
NOTHING = Plan((), (), ())


def known(phase: Phase, namespace: str | None = None) -> dict[str, Deployment]:
    state = begun()
    started = replace(state.plan, namespace=namespace)
    changes = {"started": started, "phase": phase, "progress_at_ms": LISTED_AT_MS - 1}
    return {DEPLOYMENT: replace(state, **changes)}


def test_what_is_owned_stays() -> None:
    for phase in (Phase.DEPLOYING, Phase.COMPENSATING, Phase.LIVE):
        assert plan([SCRIPT, CODE, SESSIONS], [OWN], known(phase), LISTED_AT_MS) == NOTHING
        inside = known(phase, "customers")
        assert plan([USER_WORKER], [], inside, LISTED_AT_MS) == NOTHING


def test_a_live_deployment_that_is_not_where_it_was_put_is_missing() -> None:
    for there, elsewhere in (
        ([SCRIPT], None),
        ([CODE], None),
        ([USER_WORKER], None),
        ([SCRIPT, CODE], "customers"),
        ([USER_WORKER], "others"),
    ):
        found = plan(there, [], known(Phase.LIVE, elsewhere), LISTED_AT_MS)
        assert found == Plan((), (), (DEPLOYMENT,))


def test_what_has_ended_leaves_nothing_behind() -> None:
    for phase in (Phase.FAILED, Phase.TORN_DOWN):
        found = plan([SCRIPT, CODE, USER_WORKER, SESSIONS], [OWN], known(phase), LISTED_AT_MS)
        assert found == Plan((SCRIPT, CODE, USER_WORKER), (ROUTE,), ())


def test_a_route_goes_even_when_its_script_is_gone() -> None:
    assert plan([], [OWN], known(Phase.FAILED), LISTED_AT_MS).routes == (ROUTE,)


def test_a_route_to_another_agents_script_stays() -> None:
    other = OwnRoute(ROUTE, front_name(OTHER_AGENT, DEPLOYMENT), DEPLOYMENT, OTHER_AGENT)
    assert plan([], [other], known(Phase.FAILED), LISTED_AT_MS).routes == ()


def test_what_is_unknown_goes() -> None:
    assert plan([SCRIPT], [OWN], {}, LISTED_AT_MS) == Plan((SCRIPT,), (ROUTE,), ())
    assert plan([], [OWN], {}, LISTED_AT_MS).routes == (ROUTE,)


def test_an_unknown_route_to_a_script_without_our_tag_stays() -> None:
    assert plan([], [OWN], {}, LISTED_AT_MS, {SCRIPT.name}).routes == ()


def test_a_route_of_ours_is_known_by_host_pattern_and_script() -> None:
    assert own_routes(ROUTING, [ROUTE]) == [OWN]
    assert own_routes(WorkersDev("me"), [ROUTE]) == []


@pytest.mark.parametrize(
    ("pattern", "script"),
    [
        ("owner.example/*", SCRIPT.name),
        (f"owner.example/dep/{DEPLOYMENT}/*", SCRIPT.name),
        (f"x.w.example/dep/{DEPLOYMENT}/*", SCRIPT.name),
        (f"wXexample/dep/{DEPLOYMENT}/*", SCRIPT.name),
        (f"{PATTERN}more/*", SCRIPT.name),
        ("w.example/dep/*", SCRIPT.name),
        ("w.example/dep/elsewhere/*", SCRIPT.name),
        (PATTERN, "owners-script"),
        (PATTERN, f"{SCRIPT.name}-more"),
        (PATTERN, front_name(AGENT, "dep_01kb000000000000000000000z")),
        (PATTERN, None),
    ],
)
def test_whatever_differs_is_not_ours(pattern: str, script: str | None) -> None:
    assert own_routes(ROUTING, [ListedRoute("r2", pattern, script)]) == []


def test_a_live_deployment_without_one_of_its_scripts_is_missed() -> None:
    for found in (SCRIPT, CODE):
        assert plan([found], [], known(Phase.LIVE), LISTED_AT_MS).missing == (DEPLOYMENT,)
    assert plan([], [], known(Phase.LIVE), LISTED_AT_MS).missing == (DEPLOYMENT,)
    assert plan([], [], known(Phase.LIVE), LISTED_AT_MS - 1).missing == ()
    assert plan([], [], known(Phase.DEPLOYING), LISTED_AT_MS).missing == ()
