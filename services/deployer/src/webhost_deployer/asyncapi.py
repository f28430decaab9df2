"""Prints the AsyncAPI document of the deployer's bus door; nothing is connected to.

The commands are decoded with msgspec behind the broker's back, so their schemas are put in here.
"""

import json
import sys
from typing import Any

import msgspec
from faststream.specification import AsyncAPI
from nats.aio.client import Client
from webhost_contracts import commands as contract
from webhost_contracts.commands import Command, Deploy, TearDown, TearDownAgent
from webhost_kit.bus.commands import broker
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Database

from webhost_deployer.handlers import Handlers
from webhost_deployer.subscribers import SERVICE, register

SCHEMAS = "#/components/schemas/{name}"
COMMANDS: dict[str, type[Command]] = {
    contract.DEPLOY: Deploy,
    contract.TEAR_DOWN: TearDown,
    contract.TEAR_DOWN_AGENT: TearDownAgent,
}


def document() -> str:
    """Return the document as JSON with a stable order of keys."""
    commands = broker("nats://localhost:4222", "deployer")
    database = Database("postgresql://localhost/deployer")
    register(commands, Bus(Client()), Handlers(database, 1, lambda: None))
    specification = AsyncAPI(commands, title="webhost deployer", version="1")
    described = json.loads(specification.to_specification().to_json())
    schemas: dict[str, Any] = described["components"]["schemas"]
    _, shapes = msgspec.json.schema_components(COMMANDS.values(), ref_template=SCHEMAS)
    schemas.update(shapes)
    for verb, kind in COMMANDS.items():
        payload = f"{SERVICE}:{verb}:Message:Payload"
        schemas[payload] = {"$ref": SCHEMAS.format(name=kind.__name__)}
    return json.dumps(described, indent=2, sort_keys=True)


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
