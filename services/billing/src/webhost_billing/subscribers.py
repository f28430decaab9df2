"""Which request on the bus goes to which handler.

Consumes: `rpc.billing.*`. A rebuild is answered by a stream of progress, so it is taken from the
bus directly; the others are one answer each (see `webhost_kit.bus.rpc`).
"""

import asyncio

import msgspec
import structlog
from faststream.nats import NatsBroker
from nats.aio.msg import Msg
from webhost_contracts import subjects, wire
from webhost_contracts.rpc import (
    RebuildProgress,
    RebuildRequest,
    RecentEventsRequest,
    SetTierRequest,
    UsageRequest,
)
from webhost_kit.bus import rpc
from webhost_kit.bus.connection import Bus

from webhost_billing.handlers import Handlers
from webhost_billing.rebuild import Rebuilder

log = structlog.get_logger(__name__)


def register(broker: NatsBroker, handlers: Handlers) -> None:
    """Connect requests and handlers."""
    rpc.serve(broker, subjects.RPC_USAGE, UsageRequest, handlers.usage)
    rpc.serve(broker, subjects.RPC_RECENT_EVENTS, RecentEventsRequest, handlers.recent_events)
    rpc.serve(broker, subjects.RPC_SET_TIER, SetTierRequest, handlers.set_tier)


class RebuildRequests:
    """Takes requests to rebuild; each is answered with lines of progress."""

    def __init__(self, bus: Bus, rebuilder: Rebuilder) -> None:
        self._bus = bus
        self._rebuilder = rebuilder
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer requests as long as the process lives."""
        subject = subjects.RPC_REBUILD
        await self._bus.client.subscribe(subject, queue=subject, cb=self._on_request)
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _on_request(self, message: Msg) -> None:
        # Beside the subscription: the next request is refused at once, and does not wait.
        task = asyncio.create_task(self._rebuild(message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _rebuild(self, message: Msg) -> None:
        async def send(line: RebuildProgress) -> None:
            if message.reply:
                await self._bus.client.publish(message.reply, wire.encode(line))

        try:
            await self._rebuilder.rebuild(wire.decode(message.data, RebuildRequest), send)
        except msgspec.DecodeError:
            await send(RebuildProgress(processed=0, total=0, refused="the request is unreadable"))
        except Exception as error:
            log.exception("rebuild failed")
            reason = f"the rebuild failed ({type(error).__name__}); a dry run tells what is true"
            await send(RebuildProgress(processed=0, total=0, refused=reason))
