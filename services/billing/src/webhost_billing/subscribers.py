"""The bus door: which question goes to which handler.

Consumes: `ask.billing.*`. A rebuild is answered by a stream of progress, so it is taken from the
bus directly; the others are one answer each (see `webhost_kit.questions`).
"""

import asyncio

import msgspec
import structlog
from faststream.nats import NatsBroker
from nats.aio.msg import Msg
from webhost_contracts import subjects, wire
from webhost_contracts.questions import (
    RebuildProgress,
    RebuildQuestion,
    RecentEventsQuestion,
    SetTierQuestion,
    UsageQuestion,
)
from webhost_kit.bus import Bus
from webhost_kit.questions import answer

from webhost_billing.handlers import Handlers
from webhost_billing.rebuild import Rebuilder

log = structlog.get_logger(__name__)


def register(broker: NatsBroker, handlers: Handlers) -> None:
    """Connect questions and handlers."""
    answer(broker, subjects.ASK_USAGE, UsageQuestion, handlers.usage)
    answer(broker, subjects.ASK_RECENT_EVENTS, RecentEventsQuestion, handlers.recent_events)
    answer(broker, subjects.ASK_SET_TIER, SetTierQuestion, handlers.set_tier)


async def answer_rebuilds(bus: Bus, rebuilder: Rebuilder) -> None:
    """Answer orders to rebuild for ever, each with lines of progress."""
    running: set[asyncio.Task[None]] = set()

    async def on_order(order: Msg) -> None:
        # Beside the subscription: the next order is refused at once, and does not wait.
        task = asyncio.create_task(_answer_rebuild(bus, rebuilder, order))
        running.add(task)
        task.add_done_callback(running.discard)

    await bus.client.subscribe(subjects.ASK_REBUILD, queue=subjects.ASK_REBUILD, cb=on_order)
    try:
        await asyncio.Event().wait()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _answer_rebuild(bus: Bus, rebuilder: Rebuilder, order: Msg) -> None:
    async def tell(line: RebuildProgress) -> None:
        if order.reply:
            await bus.client.publish(order.reply, wire.encode(line))

    try:
        await rebuilder.rebuild(wire.decode(order.data, RebuildQuestion), tell)
    except msgspec.DecodeError:
        await tell(RebuildProgress(processed=0, total=0, refused="the order cannot be read"))
    except Exception as error:
        log.exception("rebuild failed")
        reason = f"the rebuild failed ({type(error).__name__}); a dry run tells what is true"
        await tell(RebuildProgress(processed=0, total=0, refused=reason))
