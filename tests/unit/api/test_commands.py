"""Commands follow from their facts, and from nothing else."""

import pytest
from webhost_api.commands import TEARDOWN_MARGIN_MS, Commands, subject_of
from webhost_contracts.commands import Deploy, TearDown, TearDownAgent
from webhost_contracts.events import AgentDisabled, DeploymentRetired, Event

from tests.support.facts import envelope
from tests.unit.api.builders import ARTIFACT, DELETED, requested

COMMANDS = Commands(longest_call_ms=60_000)
RETIRED = DeploymentRetired(deployment_id="dep_1")


def test_each_fact_has_its_command() -> None:
    for event, kind in ((requested(1), Deploy), (RETIRED, TearDown), (DELETED, TearDownAgent)):
        cause = envelope("usr_1", "agt_1", event, at_ms=1000)
        command = COMMANDS.caused_by(cause, event)
        assert isinstance(command, kind)
        assert (command.user_id, command.agent_id) == ("usr_1", "agt_1")
        assert command.causation_id == cause.event_id
        assert COMMANDS.caused_by(cause, event) == command
        assert subject_of(command).startswith("cmd.deployer.")
        other = COMMANDS.caused_by(envelope("usr_1", "agt_1", event, at_ms=1000), event)
        assert other is not None
        assert other.command_id != command.command_id


def test_a_deploy_carries_what_was_requested() -> None:
    event: Event = requested(2)
    command = COMMANDS.caused_by(envelope("usr_1", "agt_1", event), event, tier="pro")
    assert isinstance(command, Deploy)
    assert (command.deployment_id, command.deployment_version) == ("dep_2", 2)
    assert (command.artifact, command.tier) == (ARTIFACT, "pro")


@pytest.mark.accept("A13")
def test_a_teardown_waits_for_the_longest_call() -> None:
    command = COMMANDS.caused_by(envelope("usr_1", "agt_1", RETIRED, at_ms=1000), RETIRED)
    assert isinstance(command, TearDown)
    assert command.not_before_ms == 1000 + 60_000 + TEARDOWN_MARGIN_MS


def test_other_facts_have_none() -> None:
    event = AgentDisabled()
    assert COMMANDS.caused_by(envelope("usr_1", "agt_1", event), event) is None
