"""Prints the AsyncAPI document of the commands that the deployer takes; connects to nothing."""

import sys

from nats.aio.client import Client
from webhost_kit.bus.broker import describe
from webhost_kit.bus.commands import CommandConsumer
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Database

from webhost_deployer.handlers import Handlers
from webhost_deployer.subscribers import SERVICE, register


def document() -> str:
    """Return the document as JSON with a stable order of keys."""
    commands = CommandConsumer("nats://localhost", Bus(Client()), SERVICE)
    register(commands, Handlers(Database("postgresql://localhost"), 1, None, lambda: None))
    return describe(commands.broker, "webhost deployer")


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
