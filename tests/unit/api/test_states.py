"""The state table: what is allowed when, and what an agent is called then."""

from collections.abc import Callable, Sequence

import pytest
from webhost_api import decisions, model
from webhost_api.model import Agent, AgentStatus, DeploymentStatus
from webhost_contracts.events import AgentEnabled, DeploymentRetired, Event
from webhost_kit.errors import Conflict

from tests.unit.api.builders import (
    CREATED,
    DELETED,
    DISABLED,
    FREE,
    activated,
    agent,
    failed,
    live,
    requested,
    succeeded,
    wish,
)

OLD_AND_NEW = live(2)
NO_POINTER = [requested(1, set_as_active=False), succeeded(1)]
RUNNING = [*live(1), requested(2, revision=1)]


def deploy(it: Agent) -> list[Event]:
    return decisions.request_deployment(it, wish(9), FREE)


def activate_first(it: Agent) -> list[Event]:
    return decisions.activate(it, it.deployments["dep_1"], None)


TABLE: list[tuple[str, Sequence[Event], Callable[[Agent], list[Event]], bool]] = [
    ("pointer: deploy", OLD_AND_NEW, deploy, True),
    ("pointer: activate", OLD_AND_NEW, activate_first, True),
    ("pointer: disable", OLD_AND_NEW, decisions.disable, True),
    ("pointer: delete", OLD_AND_NEW, decisions.delete, True),
    ("running, pointer: deploy", RUNNING, deploy, False),
    ("running, pointer: activate", RUNNING, activate_first, False),
    ("running, pointer: disable", RUNNING, decisions.disable, True),
    ("running, pointer: delete", RUNNING, decisions.delete, True),
    ("running, no pointer: deploy", [requested(1)], deploy, False),
    ("running, no pointer: activate", [requested(1)], activate_first, False),
    ("running, no pointer: disable", [requested(1)], decisions.disable, True),
    ("running, no pointer: delete", [requested(1)], decisions.delete, True),
    ("no pointer: deploy", NO_POINTER, deploy, True),
    ("no pointer: activate a good one", NO_POINTER, activate_first, True),
    ("no pointer: activate a failed one", [requested(1), failed(1)], activate_first, False),
    ("no pointer: disable", NO_POINTER, decisions.disable, True),
    ("no pointer: delete", NO_POINTER, decisions.delete, True),
    ("new: deploy", [], deploy, True),
    ("disabled: deploy", [*OLD_AND_NEW, DISABLED], deploy, False),
    ("disabled: activate", [*OLD_AND_NEW, DISABLED], activate_first, False),
    ("disabled: enable", [*OLD_AND_NEW, DISABLED], decisions.enable, True),
    ("disabled: delete", [*OLD_AND_NEW, DISABLED], decisions.delete, True),
]


@pytest.mark.accept("4.table")
@pytest.mark.parametrize(
    ("given", "when", "allowed"), [r[1:] for r in TABLE], ids=[r[0] for r in TABLE]
)
def test_the_table(
    given: Sequence[Event], when: Callable[[Agent], list[Event]], allowed: bool
) -> None:
    it = agent(*given)
    if allowed:
        assert when(it)
    else:
        with pytest.raises(Conflict):
            when(it)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ([], AgentStatus.CREATED),
        ([requested(1)], AgentStatus.DEPLOYING),
        ([requested(1), failed(1)], AgentStatus.ERROR),
        (NO_POINTER, AgentStatus.CREATED),
        (live(1), AgentStatus.ACTIVE),
        (RUNNING, AgentStatus.DEPLOYING),
        ([*RUNNING, failed(2)], AgentStatus.ACTIVE),
        ([requested(1), failed(1), requested(2)], AgentStatus.DEPLOYING),
        ([*RUNNING, DISABLED], AgentStatus.DISABLED),
        ([*RUNNING, DISABLED, AgentEnabled()], AgentStatus.DEPLOYING),
        ([*live(1), DISABLED, DELETED], AgentStatus.DELETED),
    ],
)
def test_the_status_of_an_agent(given: Sequence[Event], status: AgentStatus) -> None:
    assert agent(*given).status is status


def test_the_status_of_deployments() -> None:
    it = agent(*live(2), requested(3, revision=2), failed(3), requested(4, revision=2))
    assert {name: d.status for name, d in it.deployments.items()} == {
        "dep_1": DeploymentStatus.INACTIVE,
        "dep_2": DeploymentStatus.ACTIVE,
        "dep_3": DeploymentStatus.FAILED,
        "dep_4": DeploymentStatus.DEPLOYING,
    }
    assert it.active_deployment_id == "dep_2"


def test_a_tombstone_points_nowhere() -> None:
    it = agent(*live(1), DELETED)
    assert it.active_deployment_id is None
    assert it.deployments["dep_1"].status is DeploymentStatus.INACTIVE
    assert it.deleted_at_ms == it.updated_at_ms


def test_every_fact_counts_one_version() -> None:
    facts = [*live(2), DISABLED, AgentEnabled(), DeploymentRetired(deployment_id="dep_1")]
    assert agent(*facts).version == len(facts) + 1


def test_times_are_those_of_the_facts() -> None:
    it = agent(requested(1), succeeded(1), activated(1, 1))
    deployment = it.deployments["dep_1"]
    assert (deployment.created_at_ms, deployment.finished_at_ms) == (1001, 1002)
    assert (it.created_at_ms, it.last_deployed_at_ms, it.updated_at_ms) == (1000, 1002, 1003)


def test_what_is_no_fact_of_an_agent_is_refused() -> None:
    with pytest.raises(TypeError):
        agent(CREATED)


@pytest.mark.accept("7.3.lagging")
def test_an_older_version_of_the_secrets_never_wins() -> None:
    """A reply may be known later than the fact of a change behind it."""
    newer = model.with_secrets(agent(*live(1)), 2)
    assert model.with_secrets(newer, 1).secrets_version == 2
    assert model.with_secrets(newer, 3).secrets_version == 3
