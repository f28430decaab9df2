"""Prints the AsyncAPI document of the requests that billing replies to; connects to nothing."""

import sys
from typing import Any, cast

from webhost_kit.bus.broker import describe
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.database.engine import Database

from webhost_billing.handlers import Handlers
from webhost_billing.subscribers import RebuildRequests, register, register_payments
from webhost_billing.subscriptions.handlers import SubscriptionHandlers
from webhost_billing.subscriptions.reconciliation import Reconciliation


def document() -> str:
    """Return the document as JSON with a stable order of keys."""
    requests = RequestServer("nats://localhost", "billing")
    handlers = Handlers(Database("postgresql://localhost"), ())
    register(requests, handlers, RebuildRequests(cast(Any, None), cast(Any, None)))
    database = Database("postgresql://localhost")
    register_payments(
        requests, SubscriptionHandlers(database, (), None), Reconciliation(database, (), None)
    )
    return describe(requests.broker, "webhost billing")


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
