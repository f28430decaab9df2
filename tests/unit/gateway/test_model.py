"""The route table is a fold that never goes back."""

import itertools

from webhost_contracts import api_keys
from webhost_contracts.api_keys import KeyLimits, Presented
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    AgentEnabled,
    AgentUpdated,
    DeploymentActivated,
    DeploymentFailed,
    DeploymentSucceeded,
    DeploymentTornDown,
    Envelope,
    Event,
    KeyCreated,
    KeyRevoked,
    KeyRotated,
    TierChanged,
)
from webhost_contracts.events.base import data_of
from webhost_gateway.routing.model import (
    AGENT_KEPT_MS,
    DEPLOYMENT_KEPT_MS,
    KEY_KEPT_MS,
    TYPES,
    Account,
    Agent,
    Deployment,
    Key,
    RouteTable,
)

from tests.support.facts import deployment_started

OLD, NEW = Presented("key_1", "0" * 64), Presented("key_1", "1" * 64)
URL = "https://workers.example/dep/dep_1/invoke"


def activated(deployment_id: str) -> Event:
    return DeploymentActivated(deployment_id=deployment_id, pointer_revision=1, cause="activate")


def started() -> Event:
    return deployment_started("agt_1")


def succeeded() -> Event:
    return DeploymentSucceeded(agent_id="agt_1", worker_name="w", invoke_url=URL)


def take(routes: RouteTable, aggregate_id: str, version: int, event: Event, at_ms: int = 1) -> None:
    envelope = Envelope(
        event_id="evt_1",
        aggregate_id=aggregate_id,
        version=version,
        user_id="usr_1",
        occurred_at_ms=at_ms,
        actor="test",
        data=data_of(event),
    )
    routes.evolve(envelope, event)


def test_an_agents_life() -> None:
    routes = RouteTable()
    steps = [
        (AgentCreated(name="a"), Agent(1, "usr_1", name="a")),
        (activated("dep_1"), Agent(2, "usr_1", deployment_id="dep_1", name="a")),
        (AgentDisabled(), Agent(3, "usr_1", disabled=True, deployment_id="dep_1", name="a")),
        (AgentEnabled(), Agent(4, "usr_1", deployment_id="dep_1", name="a")),
        (AgentUpdated(name="b"), Agent(5, "usr_1", deployment_id="dep_1", name="b")),
        (activated("dep_2"), Agent(6, "usr_1", deployment_id="dep_2", name="b")),
        (AgentDeleted(), Agent(7, "usr_1", deployment_id="dep_2", deleted_at_ms=1, name="b")),
    ]
    for version, (event, state) in enumerate(steps, start=1):
        take(routes, "agt_1", version, event)
        assert routes.agents["agt_1"] == state


def test_a_deployments_life() -> None:
    key = {"key_version": 1, "key_generation": 1}
    routes = RouteTable()
    take(routes, "dep_1", 1, started())
    assert routes.deployments["dep_1"] == Deployment(1, "cloudflare", **key)
    take(routes, "dep_1", 7, succeeded())
    assert routes.deployments["dep_1"] == Deployment(7, "cloudflare", URL, **key)
    take(routes, "dep_1", 8, DeploymentTornDown(agent_id="agt_1"))
    assert routes.deployments["dep_1"] == Deployment(8, "cloudflare", ended_at_ms=1, **key)


def test_a_tier() -> None:
    routes = RouteTable()
    take(routes, "usr_1", 1, TierChanged(tier="pro", previous_tier="free", source="webhook"))
    take(routes, "usr_1", 3, TierChanged(tier="free", previous_tier="pro", source="webhook"))
    take(routes, "usr_1", 2, TierChanged(tier="pro", previous_tier="pro", source="webhook"))
    assert routes.accounts == {"usr_1": Account(3, "free")}


def test_a_keys_life() -> None:
    routes = RouteTable()
    limits = KeyLimits(requests=5, period="day")
    created = KeyCreated(
        name="k", scopes=("invoke",), secret_hash=OLD.secret_hash, expires_at_ms=900, limits=limits
    )
    take(routes, "key_1", 1, created)
    key = routes.keys["key_1"]
    assert key == Key(
        1, "usr_1", ("invoke",), None, 900, limits=limits, secret_hash=OLD.secret_hash
    )
    assert (api_keys.good_until_ms(key, OLD), api_keys.good_until_ms(key, NEW)) == (900, 0)

    rotated = KeyRotated(secret_hash=NEW.secret_hash, previous_expires_at_ms=500)
    take(routes, "key_1", 2, rotated)
    key = routes.keys["key_1"]
    assert (api_keys.good_until_ms(key, OLD), api_keys.good_until_ms(key, NEW)) == (500, 900)

    take(routes, "key_1", 3, KeyRevoked(), at_ms=100)
    key = routes.keys["key_1"]
    assert (api_keys.good_until_ms(key, OLD), api_keys.good_until_ms(key, NEW)) == (0, 0)
    for version, event in enumerate((created, rotated), start=1):
        take(routes, "key_1", version, event)
        assert routes.keys["key_1"] is key

    routes.forget(100 + KEY_KEPT_MS)
    assert set(routes.keys) == {"key_1"}
    routes.forget(101 + KEY_KEPT_MS)
    assert routes.keys == {}


def test_an_accounts_status_and_tier_are_kept_apart() -> None:
    routes = RouteTable()
    take(routes, "usr_1", 2, AccountDisabled(source="test"))
    assert routes.accounts == {"usr_1": Account(2, None, disabled=True)}
    take(routes, "usr_1", 3, TierChanged(tier="pro", previous_tier="free", source="webhook"))
    assert routes.accounts == {"usr_1": Account(3, "pro", disabled=True)}
    take(routes, "usr_1", 1, AccountEnabled(source="test"))
    assert routes.accounts["usr_1"].disabled
    take(routes, "usr_1", 4, AccountEnabled(source="test"))
    assert routes.accounts == {"usr_1": Account(4, "pro")}
    take(routes, "usr_1", 5, AccountDisabled(source="test"))
    assert routes.accounts == {"usr_1": Account(5, "pro", disabled=True)}


def test_what_ended_is_forgotten_after_its_time() -> None:
    routes = RouteTable()
    failed = DeploymentFailed(agent_id="agt_1", error=DeploymentError(step="upload", message="m"))
    take(routes, "dep_torn_down", 1, DeploymentTornDown(agent_id="agt_1"), at_ms=1_000)
    take(routes, "dep_failed", 1, failed, at_ms=2_000)
    take(routes, "dep_live", 1, started(), at_ms=0)
    take(routes, "agt_deleted", 1, AgentDeleted(), at_ms=1_000)
    take(routes, "agt_live", 1, AgentDisabled(), at_ms=0)

    routes.forget(1_000 + DEPLOYMENT_KEPT_MS)
    assert set(routes.deployments) == {"dep_torn_down", "dep_failed", "dep_live"}
    routes.forget(1_001 + DEPLOYMENT_KEPT_MS)
    assert set(routes.deployments) == {"dep_failed", "dep_live"}
    routes.forget(1_000 + AGENT_KEPT_MS)
    assert set(routes.agents) == {"agt_deleted", "agt_live"}
    routes.forget(1_001 + AGENT_KEPT_MS)
    assert (set(routes.agents), set(routes.deployments)) == ({"agt_live"}, {"dep_live"})


def test_what_was_seen_changes_nothing_again() -> None:
    facts = [AgentCreated(name="a"), activated("dep_1"), activated("dep_2"), AgentDisabled()]
    routes = RouteTable()
    for version, event in enumerate(facts, start=1):
        take(routes, "agt_1", version, event)
    final = routes.agents["agt_1"]
    for version, event in enumerate(facts, start=1):
        take(routes, "agt_1", version, event)
        assert routes.agents["agt_1"] == final


def test_the_order_across_aggregates_does_not_matter() -> None:
    facts = [
        ("agt_1", 1, AgentCreated(name="a")),
        ("agt_1", 2, activated("dep_1")),
        ("dep_1", 1, started()),
        ("dep_1", 2, succeeded()),
        ("usr_1", 1, TierChanged(tier="pro", previous_tier="free", source="webhook")),
    ]
    results = []
    for order in itertools.permutations(facts):
        checkpoints = {fact[:2]: place for place, fact in enumerate(order)}
        if checkpoints["agt_1", 1] > checkpoints["agt_1", 2]:
            continue
        if checkpoints["dep_1", 1] > checkpoints["dep_1", 2]:
            continue
        routes = RouteTable()
        for fact in order:
            take(routes, *fact)
        results.append(routes)
    assert len(results) == 30
    assert all(routes == results[0] for routes in results)


def test_every_type_that_is_read_is_understood() -> None:
    assert {kind.kind() for kind in TYPES.values()} == {*("agent", "deployment", "account", "key")}
