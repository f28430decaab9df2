"""Which request goes to which handler.

Consumes: `rpc.billing.*`. A rebuild is answered by a stream of progress; the others are one reply
each (see `webhost_kit.bus.rpc`).
"""

import asyncio

import structlog
from faststream.nats.annotations import NatsMessage
from webhost_contracts import subjects, wire
from webhost_contracts.usage_rpc import RebuildProgress, RebuildRequest
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.rpc import RequestServer
from webhost_kit.tasks import cancel

from webhost_billing.handlers import Handlers
from webhost_billing.rebuild.rebuilder import Rebuilder
from webhost_billing.series.handlers import SeriesHandlers
from webhost_billing.subscriptions.handlers import SubscriptionHandlers
from webhost_billing.subscriptions.reconciliation import Reconciliation
from webhost_billing.verifying import Inspection

log = structlog.get_logger(__name__)

CHECKOUTS_AT_ONCE = 16
WEBHOOKS_AT_ONCE = 4
READS_AT_ONCE = 8
"""More than the api lets one user have under way."""


class RebuildRequests:
    """Takes requests to rebuild; each is answered with lines of progress."""

    def __init__(self, bus: Bus, rebuilder: Rebuilder) -> None:
        self._bus = bus
        self._rebuilder = rebuilder
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, request: RebuildRequest, message: NatsMessage) -> None:
        """Rebuild usage from the stream; every reply is a line of progress."""
        # In the background: the next request is refused at once instead of waiting.
        task = asyncio.create_task(self._rebuild(request, message.raw_message.reply))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End the rebuilds that run."""
        await cancel(*self._running)

    async def _rebuild(self, request: RebuildRequest, reply_to: str) -> None:
        async def send(line: RebuildProgress) -> None:
            if reply_to:
                await self._bus.client.publish(reply_to, wire.encode(line))

        try:
            await self._rebuilder.rebuild(request, send)
        except Exception as error:
            log.exception("rebuild failed")
            reason = (
                f"the rebuild failed ({type(error).__name__}); the same rebuild, run again, goes on"
                " from there"
            )
            await send(RebuildProgress(processed=0, total=0, refused=reason))


def register(
    requests: RequestServer,
    handlers: Handlers,
    rebuilds: RebuildRequests,
    series: SeriesHandlers,
    inspection: Inspection,
) -> None:
    """Connect requests and handlers."""
    requests.serve(subjects.RPC_USAGE, handlers.usage, at_once=READS_AT_ONCE)
    requests.serve(subjects.RPC_RECENT_EVENTS, handlers.recent_events, at_once=READS_AT_ONCE)
    requests.serve(subjects.RPC_USAGE_SERIES, series.series, at_once=READS_AT_ONCE)
    requests.serve(subjects.RPC_INVOICE, series.invoice, at_once=READS_AT_ONCE)
    requests.serve(subjects.RPC_SILENT_AGENTS, handlers.silent_agents)
    requests.serve(subjects.RPC_SET_TIER, handlers.set_tier)
    requests.serve(subjects.RPC_SET_ACCOUNT_STATUS, handlers.set_account_status)
    requests.serve(subjects.RPC_USAGE_FEED, handlers.usage_feed)
    requests.serve(subjects.RPC_USAGE_EXPORT, handlers.usage_export)
    requests.serve(subjects.RPC_VERIFY, inspection.verify)
    requests.serve(subjects.RPC_LATE_REPORTS, inspection.late_reports)
    requests.serve_raw(subjects.RPC_REBUILD, rebuilds.start)


def register_payments(
    requests: RequestServer, handlers: SubscriptionHandlers, reconciliation: Reconciliation
) -> None:
    """Connect what is requested about what users pay for."""
    # Each waits for the provider's answer.
    requests.serve(subjects.RPC_CHECKOUT, handlers.checkout, at_once=CHECKOUTS_AT_ONCE)
    requests.serve(subjects.RPC_WEBHOOK, handlers.webhook, at_once=WEBHOOKS_AT_ONCE)
    requests.serve(subjects.RPC_SUBSCRIPTION, handlers.subscription)
    requests.serve(subjects.RPC_RECONCILE_SUBSCRIPTIONS, reconciliation.reconcile)
    requests.serve(subjects.RPC_ASSIGN_SUBSCRIPTION, reconciliation.assign)
