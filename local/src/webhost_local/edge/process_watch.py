"""Whether a workerd process uses more than it may; workerd has no limit of its own.

One whose event loop stands still while it uses as much processor time as its scripts may, or for
PATIENCE times as long, uses too much. What they may is what they were uploaded with or, where it is
lower, what they were last called by name with: the process that made the call says so when it is
pinged.
"""

import asyncio
import math
import time
from collections.abc import Iterable, Mapping

from webhost_local.edge.model import Script
from webhost_local.edge.process import Process

POLL_SECONDS = 0.5
MOST_MEMORY_BYTES = 512 * 1024 * 1024
"""Resident, of one process."""
PATIENCE = 10
"""How much longer it takes at most, on a machine with much else to do."""


class ProcessWatch:
    """Pings processes. `scripts`: by key."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self._scripts = scripts
        self._pinged: set[Process] = set()
        self._called_with_ms: dict[str, float] = {}

    def forget(self, key: str) -> None:
        """The script was removed."""
        self._called_with_ms.pop(key, None)

    def is_pinged(self, process: Process) -> bool:
        """Whether an answer of this process is waited for."""
        return process in self._pinged

    async def overused(self, process: Process, members: Iterable[str]) -> str | None:
        """Ping a process that runs these scripts; return what it uses too much of."""
        self._pinged.add(process)
        ping = asyncio.create_task(process.ping())
        began, used_s = time.monotonic(), process.processor_s()
        try:
            while not ping.done():
                # It answers no ping while one call fills the memory.
                if _is_too_large(process):
                    return "memory"
                # The limit of a call may become known only while its script is busy.
                limit_s = self._cpu_ms(members) / 1000
                if process.processor_s() - used_s >= limit_s:
                    break
                if time.monotonic() - began >= limit_s * PATIENCE:
                    break
                await asyncio.wait((ping,), timeout=POLL_SECONDS)
            if not ping.done() or ping.exception() is not None:
                return "processor time"
            self._called_with_ms |= ping.result()
            return "memory" if _is_too_large(process) else None
        finally:
            ping.cancel()
            self._pinged.discard(process)

    def _cpu_ms(self, members: Iterable[str]) -> float:
        scripts = [self._scripts[key] for key in members if key in self._scripts]
        called = (self._called_with_ms.get(script.key, math.inf) for script in scripts)
        return min((*(script.version.cpu_ms for script in scripts), *called), default=0)


def _is_too_large(process: Process) -> bool:
    return process.resident_bytes() > MOST_MEMORY_BYTES
