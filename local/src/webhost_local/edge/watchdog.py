"""Ends processes that are idle, or that use more than they may; the next use starts another.

A script that others call is not idle while a caller runs. workerd has no limit of processor time,
nor of memory: a process that answers nothing for as long as its scripts may compute, or that has
grown too large, is ended.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from webhost_local.edge.model import Script
from webhost_local.edge.process import Process
from webhost_local.edge.worker import Worker

POLL_SECONDS = 0.5
MOST_MEMORY_BYTES = 512 * 1024 * 1024
"""Resident, of one process."""

log = logging.getLogger("webhost.edge")


class Watchdog:
    """Watches the processes of all `workers`.

    `retire` ends one that is idle, `died` one that answers nothing any more; `spawn` starts a task.
    """

    def __init__(
        self,
        workers: Mapping[str, Worker],
        scripts: Mapping[str, Script],
        idle_seconds: float,
        retire: Callable[[Process], Awaitable[None]],
        died: Callable[[str, Process], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._workers = workers
        self._scripts = scripts
        self._idle_seconds = idle_seconds
        self._retire = retire
        self._died = died
        self._spawn = spawn
        self._pinged: set[Process] = set()

    async def stop_idle(self) -> None:
        """End what nobody has used for a while, until cancelled."""
        while True:
            await asyncio.sleep(min(self._idle_seconds / 4, 5.0))
            for worker in list(self._workers.values()):
                if not worker.lock.locked() and self._is_idle(worker):
                    async with worker.lock:
                        old = worker.detach() if self._is_idle(worker) else None
                        if old is not None:
                            await self._retire(old)

    async def stop_greedy(self) -> None:
        """End what uses more processor time in one go than it may, or memory, until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for worker in list(self._workers.values()):
                if worker.process is not None and worker.process not in self._pinged:
                    self._spawn(self._ping(worker, worker.process))

    async def _ping(self, worker: Worker, running: Process) -> None:
        self._pinged.add(running)
        try:
            scripts = [self._scripts.get(key) for key in worker.members]
            limit_ms = min((s.version.cpu_ms for s in scripts if s is not None), default=0)
            used = "processor time"
            answers = await running.answers(limit_ms / 1000)
            if running.resident_bytes() > MOST_MEMORY_BYTES:
                answers, used = False, "memory"
            if not answers and worker.process is running:
                log.warning("worker %s used too much %s: ended", worker.script.key, used)
                await self._died(worker.script.key, running)
        finally:
            self._pinged.discard(running)

    def _is_idle(self, worker: Worker) -> bool:
        if worker.process is None or worker.process.in_flight:
            return False
        called = any(
            worker.script.key in other.calls
            for other in self._workers.values()
            if other.process is not None and other is not worker
        )
        if called:
            worker.last_used = time.monotonic()
        return time.monotonic() - worker.last_used > self._idle_seconds
