"""Prints the AsyncAPI document of what the deployer takes; connects to nothing."""

import sys

from nats.aio.client import Client
from webhost_contracts.rpc import (
    PlacementReply,
    PlacementRequest,
    ReconcileReply,
    ReconcileRequest,
    RevokeTelemetryKeyReply,
    RevokeTelemetryKeyRequest,
)
from webhost_kit.bus.broker import describe
from webhost_kit.bus.commands import CommandConsumer
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.database.engine import Database

from webhost_deployer.handlers import Handlers
from webhost_deployer.secrets.handlers import SecretHandlers
from webhost_deployer.subscribers import SERVICE, register, register_requests

URL = "nats://localhost"


def document() -> str:
    """Return the document as JSON with a stable order of keys."""
    database = Database("postgresql://localhost")
    commands = CommandConsumer(URL, Bus(Client()), SERVICE)
    register(commands, Handlers(database, 1, None, lambda: None))
    requests = RequestServer(URL, SERVICE)
    secrets = SecretHandlers(database, lambda: None)
    register_requests(requests, secrets, _unasked, _not_placed, _not_revoked)
    return describe(commands.broker, "webhost deployer", requests.broker)


async def _unasked(_request: ReconcileRequest) -> ReconcileReply:
    return ReconcileReply()


async def _not_placed(_request: PlacementRequest) -> PlacementReply:
    return PlacementReply()


async def _not_revoked(_request: RevokeTelemetryKeyRequest) -> RevokeTelemetryKeyReply:
    return RevokeTelemetryKeyReply()


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
