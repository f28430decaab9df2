"""How late the event loop is: what a process with one thread has instead of a queue of requests."""

import asyncio
from time import monotonic

from prometheus_client import Histogram

from webhost_kit.process.metrics import MOMENT_S

INTERVAL_S = 0.5

_delay = Histogram(
    "webhost_event_loop_delay_seconds",
    "How much later than asked for the process went on, twice a second: near 0 while it has time",
    buckets=MOMENT_S,
)


async def measure_delays() -> None:
    """Measure without end."""
    while True:
        began_s = monotonic()
        await asyncio.sleep(INTERVAL_S)
        _delay.observe(max(monotonic() - began_s - INTERVAL_S, 0.0))
