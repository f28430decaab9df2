"""What of a provider's listing goes, and what stays."""

from msgspec.structs import replace
from webhost_deployer.cloudflare.addresses import worker_name
from webhost_deployer.cloudflare.inventory import ListedRoute, ListedScript
from webhost_deployer.cloudflare.reconcile import Plan, plan
from webhost_deployer.model import Deployment, Phase

from tests.unit.deployer.samples import AGENT, DEPLOYMENT, begun

SCRIPT = ListedScript(worker_name(AGENT, DEPLOYMENT), ("webhost", f"deployment-{DEPLOYMENT}"))
SESSIONS = ListedScript("whs-sessions-1", ("webhost", "sessions-v1-00"))
ROUTE = ListedRoute("r1", f"w.example/dep/{DEPLOYMENT}/*", SCRIPT.name)
LISTED_AT_MS = 2_000_000
NOTHING = Plan((), (), ())


def known(phase: Phase) -> dict[str, Deployment]:
    return {DEPLOYMENT: replace(begun(), phase=phase, progress_at_ms=LISTED_AT_MS - 1)}


def test_what_is_owned_stays() -> None:
    for phase in (Phase.DEPLOYING, Phase.COMPENSATING, Phase.LIVE):
        assert plan([SCRIPT, SESSIONS], [ROUTE], known(phase), LISTED_AT_MS) == NOTHING


def test_what_has_ended_leaves_nothing_behind() -> None:
    for phase in (Phase.FAILED, Phase.TORN_DOWN):
        found = plan([SCRIPT, SESSIONS], [ROUTE], known(phase), LISTED_AT_MS)
        assert found == Plan((SCRIPT,), (ROUTE,), ())


def test_a_route_goes_even_when_its_script_is_gone() -> None:
    found = plan([], [ROUTE], known(Phase.FAILED), LISTED_AT_MS)
    assert found.routes == (ROUTE,)


def test_what_nobody_knows_goes() -> None:
    assert plan([SCRIPT], [ROUTE], {}, LISTED_AT_MS) == Plan((SCRIPT,), (ROUTE,), ())


def test_others_routes_stay_whatever_they_lead_to() -> None:
    theirs = ListedRoute("r2", "owner.example/*", SCRIPT.name)
    elsewhere = ListedRoute("r3", f"w.example/dep/{DEPLOYMENT}/*", "owners-script")
    assert plan([SCRIPT], [theirs, elsewhere], {}, LISTED_AT_MS).routes == ()


def test_a_live_deployment_without_its_script_is_missed() -> None:
    assert plan([], [], known(Phase.LIVE), LISTED_AT_MS).missing == (DEPLOYMENT,)
    assert plan([], [], known(Phase.LIVE), LISTED_AT_MS - 1).missing == ()
    assert plan([], [], known(Phase.DEPLOYING), LISTED_AT_MS).missing == ()
