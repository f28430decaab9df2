"""Given these events, when this command, then these events."""

import pytest
from msgspec.structs import replace
from webhost_api import decisions, model
from webhost_api.decisions import DELETED_MEANWHILE, DescribeAgent
from webhost_api.model import DeploymentStatus
from webhost_contracts.events import (
    AgentCreated,
    AgentDeleted,
    AgentDisabled,
    AgentUpdated,
    DeploymentActivated,
    DeploymentEnded,
    DeploymentRetired,
)
from webhost_kit.errors import Conflict, InvalidRequest, LimitExceeded

from tests.unit.api.builders import (
    DELETED,
    DISABLED,
    ERROR,
    FREE,
    TIERS,
    activated,
    agent,
    failed,
    live,
    requested,
    succeeded,
    wish,
)

KEEP = 5


def test_create() -> None:
    command = DescribeAgent(name="a", description="", env_var_keys=("A",))
    assert decisions.create(command, 9, FREE) == [AgentCreated(name="a", env_var_keys=("A",))]


def test_create_beyond_the_tier() -> None:
    with pytest.raises(LimitExceeded) as refusal:
        decisions.create(DescribeAgent(name="a"), 10, FREE)
    assert refusal.value.details["limitType"] == "agents"
    assert decisions.create(DescribeAgent(name="a"), 10_000, TIERS["enterprise"])


@pytest.mark.parametrize(
    ("provider", "tier", "refusal"),
    [
        ("agentcore", "free", LimitExceeded),
        ("agentcore", "enterprise", InvalidRequest),
        ("lambda", "enterprise", InvalidRequest),
    ],
)
def test_providers_are_gated_wherever_one_is_named(
    provider: str, tier: str, refusal: type[Exception]
) -> None:
    allowed = TIERS[tier]
    with pytest.raises(refusal):
        decisions.create(DescribeAgent(name="a", preferred_runtime_provider=provider), 0, allowed)
    with pytest.raises(refusal):
        decisions.update(agent(), DescribeAgent(preferred_runtime_provider=provider), allowed)
    with pytest.raises(refusal):
        decisions.request_deployment(agent(), wish(1, runtime_provider=provider), allowed)


def test_a_preferred_provider_is_gated_again_when_the_tier_fell() -> None:
    it = replace(agent(), preferred_runtime_provider="agentcore")
    with pytest.raises(LimitExceeded):
        decisions.request_deployment(it, wish(1), FREE)
    assert decisions.request_deployment(it, wish(1, runtime_provider="cloudflare"), FREE)


def test_update_states_all_fields_as_they_are_now() -> None:
    assert decisions.update(agent(), DescribeAgent(name="new"), FREE) == [
        AgentUpdated(name="new", description="what it is", env_var_keys=("A",))
    ]
    assert decisions.update(agent(), DescribeAgent(description=""), FREE) == [
        AgentUpdated(name="mine", env_var_keys=("A",))
    ]


def test_nothing_new_is_no_fact() -> None:
    it = agent()
    assert decisions.update(it, DescribeAgent(name="mine"), FREE) == []
    assert decisions.enable(it) == []
    assert decisions.disable(agent(DISABLED)) == []
    it = agent(*live(1))
    assert decisions.activate(it, it.deployments["dep_1"], "again") == []


def test_disable_and_delete() -> None:
    assert decisions.disable(agent()) == [AgentDisabled()]
    assert decisions.delete(agent(requested(1))) == [AgentDeleted()]


def test_a_deploy_is_a_new_version_that_knows_the_pointer() -> None:
    it = agent(*live(1), requested(2, revision=1), failed(2))
    assert decisions.request_deployment(it, wish(3), FREE) == [requested(3, revision=1)]


def test_activate_points_back() -> None:
    it = agent(*live(2))
    [event] = decisions.activate(it, it.deployments["dep_1"], "v2 is slow")
    assert event == DeploymentActivated(
        deployment_id="dep_1",
        pointer_revision=3,
        cause="activate",
        previous_deployment_id="dep_2",
        reason="v2 is slow",
    )


def test_a_retired_deployment_cannot_be_activated() -> None:
    it = agent(*live(2), DeploymentRetired(deployment_id="dep_1"))
    with pytest.raises(Conflict):
        decisions.activate(it, it.deployments["dep_1"], None)


def test_success_ends_the_deploy_and_flips_the_pointer() -> None:
    it = agent(*live(1), requested(2, revision=1))
    assert decisions.conclude_succeeded(it, "dep_2", KEEP) == [succeeded(2), activated(2, 2, 1)]


def test_success_does_not_flip_without_set_as_active() -> None:
    it = agent(requested(1, set_as_active=False))
    assert decisions.conclude_succeeded(it, "dep_1", KEEP) == [succeeded(1)]


def test_success_does_not_flip_after_another_pointer_decision() -> None:
    it = agent(*live(2), requested(3, revision=2), activated(1, 3, 2, "activate"))
    assert decisions.conclude_succeeded(it, "dep_3", KEEP) == [succeeded(3)]


def test_disabling_does_not_keep_the_pointer_from_flipping() -> None:
    it = agent(requested(1), DISABLED)
    assert decisions.conclude_succeeded(it, "dep_1", KEEP) == [succeeded(1), activated(1, 1)]


def test_of_a_deleted_agent_every_running_deploy_failed() -> None:
    ended = DeploymentEnded(deployment_id="dep_1", outcome="failed", error=DELETED_MEANWHILE)
    assert decisions.conclude_succeeded(agent(requested(1), DELETED), "dep_1", KEEP) == [ended]


def test_failure_never_touches_the_pointer() -> None:
    it = agent(*live(1), requested(2, revision=1))
    assert decisions.conclude_failed(it, "dep_2", ERROR) == [failed(2)]


@pytest.mark.parametrize("ending", [succeeded(1), failed(1)])
def test_a_deployment_ends_once(ending: DeploymentEnded) -> None:
    it = agent(requested(1), ending)
    assert decisions.conclude_succeeded(it, "dep_1", KEEP) == []
    assert decisions.conclude_failed(it, "dep_1", ERROR) == []
    assert decisions.conclude_succeeded(it, "dep_unknown", KEEP) == []


def test_what_is_beyond_the_newest_good_ones_is_retired() -> None:
    it = agent(*live(5), requested(6, revision=5))
    assert decisions.conclude_succeeded(it, "dep_6", KEEP) == [
        succeeded(6),
        activated(6, 6, 5),
        DeploymentRetired(deployment_id="dep_1"),
    ]


def test_the_active_one_is_never_retired() -> None:
    facts = [
        *live(5),
        activated(1, 6, 5, "activate"),
        requested(6, revision=6, set_as_active=False),
    ]
    assert decisions.conclude_succeeded(agent(*facts), "dep_6", KEEP) == [succeeded(6)]
    then = [*facts, succeeded(6), requested(7, revision=6)]
    assert decisions.conclude_succeeded(agent(*then), "dep_7", KEEP) == [
        succeeded(7),
        activated(7, 7, 1),
        DeploymentRetired(deployment_id="dep_2"),
        DeploymentRetired(deployment_id="dep_1"),
    ]


def test_failed_ones_do_not_count_as_good() -> None:
    facts = [*live(4), requested(5, revision=4), failed(5), requested(6, revision=4)]
    retired = [
        event
        for event in decisions.conclude_succeeded(agent(*facts), "dep_6", KEEP)
        if isinstance(event, DeploymentRetired)
    ]
    assert retired == []


def test_torn_down_a_good_one_is_deleted_and_a_failed_one_stays_failed() -> None:
    good = agent(requested(1), succeeded(1)).deployments["dep_1"]
    bad = agent(requested(1), failed(1)).deployments["dep_1"]
    assert model.torn_down(good).status is DeploymentStatus.DELETED
    assert model.torn_down(bad).status is DeploymentStatus.FAILED
