"""Runs one local stack in the foreground.

Starts the groups in order, the processes of a group together, the next group once the one before
is ready. Restarts what dies. On SIGINT, SIGTERM or SIGHUP, or when a process cannot run as it is
configured, it stops everything, last group first, and returns; a second signal kills instead. If
the supervisor itself is killed, the kernel ends its processes, and whatever those left behind is
ended by the next start in the same directory.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from webhost_local.child import end, processes_marked
from webhost_local.data_dir import DataDir
from webhost_local.logview import LogView
from webhost_local.process import Misconfigured, Process, ProcessSpec

MARK = "WEBHOST_STACK_DIR"
"""In the environment of every process of a stack: the data directory it belongs to."""

_PATIENCE_S = 30.0
_LEFTOVER_GRACE_S = 5.0


class Supervisor:
    """Keeps groups of processes running until it is told to stop."""

    def __init__(
        self,
        groups: Sequence[Sequence[ProcessSpec]],
        log: LogView,
        on_change: Callable[[Sequence[Process]], None],
    ) -> None:
        self._log = log
        self._groups = [
            [Process(spec, log, lambda: on_change(self.processes), self._give_up) for spec in group]
            for group in groups
        ]
        self._stop = asyncio.Event()
        self._reason: Misconfigured | None = None

    @property
    def processes(self) -> list[Process]:
        return [process for group in self._groups for process in group]

    async def run(self, on_ready: Callable[[float], None]) -> None:
        """Run until a signal comes. `on_ready` gets the seconds that the start took.

        Raises Misconfigured, once everything is stopped, when a process cannot run as configured.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` sets it
            loop.add_signal_handler(signal.SIGHUP, self._asked_to_stop)
        starting = asyncio.create_task(self._start(on_ready))
        try:
            await self._stop.wait()
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            self._log.plain("stopping")
            for group in reversed(self._groups):
                await asyncio.gather(*(process.stop() for process in group))
        if self._reason is not None:
            raise self._reason

    async def _start(self, on_ready: Callable[[float], None]) -> None:
        began = time.monotonic()
        for group in self._groups:
            for process in group:
                process.start()
            await self._wait_until_ready(group)
        on_ready(time.monotonic() - began)

    async def _wait_until_ready(self, group: Sequence[Process]) -> None:
        while True:
            waiting = [asyncio.create_task(process.ready.wait()) for process in group]
            _, late = await asyncio.wait(waiting, timeout=_PATIENCE_S)
            for task in waiting:
                task.cancel()
            if not late:
                return
            specs = [process.spec for process in group if not process.ready.is_set()]
            reasons = await asyncio.gather(*(asyncio.to_thread(spec.why_not) for spec in specs))
            named = [
                f"{spec.name} ({why})" if why else spec.name
                for spec, why in zip(specs, reasons, strict=True)
            ]
            self._log.plain(f"still waiting for {', '.join(named)}")

    def _give_up(self, reason: Misconfigured) -> None:
        self._reason = self._reason or reason
        self._stop.set()

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            for process in self.processes:
                process.kill()
        self._stop.set()


def run(
    groups: Sequence[Sequence[ProcessSpec]],
    *,
    on_change: Callable[[Sequence[Process], bool], None],
    welcome: Callable[[float], str],
) -> None:
    """Run the groups until a signal comes; the caller holds the data directory's lock.

    `on_change` gets the processes at every new pid, and whether the stack has been ready.
    `welcome` makes the message that is shown then, from the seconds that the start took. Raises
    StackError when a process cannot run as configured.
    """
    log = LogView(sys.stdout, [spec.name for group in groups for spec in group])
    ready = False

    async def main() -> None:
        def changed(processes: Sequence[Process]) -> None:
            try:
                on_change(processes, ready)
            except OSError as error:  # a full disk ends no process
                log.plain(f"cannot write the stack's state: {error}")

        supervisor = Supervisor(groups, log, changed)

        def became_ready(seconds: float) -> None:
            nonlocal ready
            ready = True
            changed(supervisor.processes)
            log.plain(welcome(seconds))

        await supervisor.run(became_ready)

    try:
        asyncio.run(main())
        log.plain("stopped")
    finally:
        log.close()


def mark(data_dir: DataDir) -> dict[str, str]:
    """What every process of this stack has in its environment."""
    return {MARK: os.fspath(data_dir.root)}


def clear_leftovers(data_dir: DataDir) -> None:
    """End what a killed stack of this directory left running."""
    with contextlib.suppress(FileNotFoundError):
        data_dir.state.unlink()
    leftovers = processes_marked(MARK, os.fspath(data_dir.root))
    end(leftovers, first=signal.SIGTERM, grace=_LEFTOVER_GRACE_S)
