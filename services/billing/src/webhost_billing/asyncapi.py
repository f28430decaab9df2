"""Prints the AsyncAPI document of the requests that billing replies to; connects to nothing."""

import sys
from typing import Any, cast

from webhost_kit.bus.broker import describe
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.database.engine import Database

from webhost_billing.handlers import Handlers
from webhost_billing.series.handlers import SeriesHandlers
from webhost_billing.subscribers import RebuildRequests, register, register_payments
from webhost_billing.subscriptions.handlers import SubscriptionHandlers
from webhost_billing.subscriptions.reconciliation import Reconciliation
from webhost_billing.verifying import Inspection


def document() -> str:
    """Return the document as JSON with a stable order of keys."""
    requests = RequestServer("nats://localhost", "billing")
    database, nothing = Database("postgresql://localhost"), cast(Any, None)
    handlers, rebuilds = Handlers(database, (), ""), RebuildRequests(nothing, nothing)
    series, inspection = SeriesHandlers(database, nothing), Inspection(database, nothing, {})
    register(requests, handlers, rebuilds, series, inspection)
    register_payments(
        requests, SubscriptionHandlers(database, (), None), Reconciliation(database, (), None)
    )
    return describe(requests.broker, "webhost billing")


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
