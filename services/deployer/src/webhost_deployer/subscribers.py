"""The bus door: which command goes to which handler.

Consumes: `cmd.deployer.deploy.*`, `cmd.deployer.tear-down.*`, `cmd.deployer.tear-down-agent.*`.
Guarantees, retries and dead letters: see `webhost_kit.bus.commands`.
"""

from faststream.nats import NatsBroker
from webhost_contracts import commands as contract
from webhost_contracts.commands import Deploy, TearDown, TearDownAgent
from webhost_kit.bus.commands import subscribe
from webhost_kit.bus.connection import Bus

from webhost_deployer.handlers import Handlers, nothing_to_tell

SERVICE = "deployer"


def register(broker: NatsBroker, bus: Bus, handlers: Handlers) -> list[str]:
    """Connect commands and handlers; return the consumers' names."""
    return [
        subscribe(
            broker,
            bus,
            SERVICE,
            contract.DEPLOY,
            Deploy,
            handlers.deploy,
            handlers.deploy_died,
        ),
        subscribe(
            broker,
            bus,
            SERVICE,
            contract.TEAR_DOWN,
            TearDown,
            handlers.tear_down,
            nothing_to_tell,
        ),
        subscribe(
            broker,
            bus,
            SERVICE,
            contract.TEAR_DOWN_AGENT,
            TearDownAgent,
            handlers.tear_down_agent,
            nothing_to_tell,
        ),
    ]
