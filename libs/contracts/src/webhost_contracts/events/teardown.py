"""Facts about the end of all that a deleted agent had, stated by the deployer.

The aggregate is the agent, as the deployer sees it: these versions are the deployer's own, apart
from those of the api's facts about the same agent.
"""

from webhost_contracts.events.deployment import DeployerEvent


class TeardownStarted(DeployerEvent, frozen=True, kw_only=True, tag="teardown.started.v1"):
    """The agent was deleted: no deployment of it is begun any more, and those there are removed."""


class TeardownFinished(DeployerEvent, frozen=True, kw_only=True, tag="teardown.finished.v1"):
    """Nothing of the agent is left at any provider, its sessions included."""
