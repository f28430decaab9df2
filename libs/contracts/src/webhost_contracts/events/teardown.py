"""Facts about the removal of everything that a deleted agent had, stated by the deployer.

The aggregate is the agent, as the deployer sees it: these versions are the deployer's own,
independent of those of the api's facts about the same agent.
"""

from webhost_contracts.events.deployment import DeployerEvent


class TeardownStarted(DeployerEvent, frozen=True, kw_only=True, tag="teardown.started.v1"):
    """The agent was deleted: no new deployment of it is started, and existing ones are removed."""


class TeardownFinished(DeployerEvent, frozen=True, kw_only=True, tag="teardown.finished.v1"):
    """Everything of the agent has been removed from every provider, its sessions included."""
