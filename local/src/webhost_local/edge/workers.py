"""The workerd processes: one per script that is called from outside, from first use until idle.

A script's bindings socket listens for as long as the script exists: a caller's connection starts
the callee. A script that others call is not idle while a caller runs.

A new version replaces the old one at once for requests that come after, also where it runs as part
of a caller's process; the old process finishes what it has. A script with Durable Objects never has
two processes: its old one is gone before the new one starts.

A process that uses too much is ended; the next use starts another.
"""

import asyncio
import contextlib
import itertools
import logging
import socket
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from webhost_local.edge import config, process
from webhost_local.edge.bindings import BindingsSocket, path_of
from webhost_local.edge.errors import ScriptGone, WorkerFailedToStart
from webhost_local.edge.model import Script
from webhost_local.edge.process import Process
from webhost_local.edge.process_watch import POLL_SECONDS, ProcessWatch
from webhost_local.edge.settings import EdgeSettings, newest_compatibility_date
from webhost_local.edge.store import Store
from webhost_local.edge.worker import Worker

# What a Worker does after its answer (waitUntil) may go on for this long after it was replaced.
LINGER_SECONDS = 5.0
DRAIN_SECONDS = 90.0
# A script with Durable Objects is away while it drains, so its requests get less time.
OBJECTS_DRAIN_SECONDS = 10.0
LONGEST_BACKOFF_SECONDS = 60.0

log = logging.getLogger("webhost.edge")


class Workers:
    """All scripts' processes. Relative paths: the working directory is the data directory."""

    def __init__(
        self,
        store: Store,
        workerd: Path,
        settings: EdgeSettings,
        lock_descriptor: int,
    ) -> None:
        self._store = store
        self._workerd = workerd
        self._idle_seconds = settings.idle_seconds
        self._inherited = (lock_descriptor,)
        self._around = config.ProcessEnvironment(
            scripts=store.scripts,
            version_path=self._version_path,
            binding_socket=path_of,
            newest_date=newest_compatibility_date(workerd),
            private_addresses=settings.private_addresses,
            open_addresses=settings.open_addresses,
            parameters=store.parameters_dir,
        )
        self._numbers = itertools.count(1)
        self._workers: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[Process] = set()
        self._watch = ProcessWatch(store.scripts)

    async def open(self) -> None:
        """Listen for service bindings of every stored script, and stop idle ones from now on."""
        for script in self._store.scripts.values():
            self.put(script)
        self._spawn(self._stop_idle())
        self._spawn(self._stop_overuse())

    async def close(self) -> None:
        """Stop every process."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        running = [w.process for w in self._workers.values() if w.process is not None]
        for worker in self._workers.values():
            worker.gone = True
            worker.bindings.unwatch()
        await asyncio.gather(*(p.stop() for p in {*running, *self._retiring}))
        for worker in self._workers.values():
            worker.bindings.close()

    async def trial(self, script: Script) -> None:
        """Start this version aside, on empty storage. Raises WorkerFailedToStart."""
        path = self._new_path()
        bindings_path = path.with_suffix(".trial")
        with process.listen(bindings_path) as bindings:
            try:
                started = await self._start(script, path, bindings, None)
            finally:
                bindings_path.unlink()
        await started.kill()

    def put(self, script: Script) -> Worker:
        """Register a script that is new or was just opened, with its bindings socket."""
        worker = self._workers[script.key] = Worker(script)
        worker.bindings = BindingsSocket(
            script.key,
            self._store.owner,
            lambda: self._spawn(self._start_for_caller(worker)),
        )
        return worker

    async def replace(self, script: Script) -> None:
        """Replace the script: later requests reach this version and nothing older."""
        worker = self._workers.get(script.key)
        if worker is None:
            self.put(script)
        else:
            async with worker.lock:
                had_objects = bool(worker.script.namespaces)
                worker.script = script
                old = worker.detach()
                listening = {p.bindings for p in (old, *self._retiring) if p is not None}
                if script.namespace is not None and worker.bindings.socket in listening:
                    # The old process goes on listening, until it ends, where nobody calls.
                    worker.bindings.renew()
                await self._end(old, objects=had_objects or bool(script.namespaces))

    async def remove(self, script: Script) -> None:
        """Remove the script; requests that its process is still answering finish first."""
        worker = self._workers.pop(script.key, None)
        self._watch.forget(script.key)
        if worker is None:
            return
        async with worker.lock:
            worker.gone = True
            old = worker.detach()
            worker.bindings.remove()
            await self._end(old, objects=bool(script.namespaces))

    async def refresh(self, changed: Script) -> None:
        """Replace the processes of which this script is a part, or that call it now or did."""
        scripts = self._store.scripts
        for worker in list(self._workers.values()):
            if worker.script.key != changed.key:
                # A process that is starting was configured before the change.
                async with worker.lock:
                    if worker.process is not None and worker.is_outdated(changed, scripts):
                        objects = bool(worker.script.namespaces)
                        await self._end(worker.detach(), objects=objects)

    async def _end(self, old: Process | None, *, objects: bool) -> None:
        """Let a process finish what it has; one with Durable Objects before anything else."""
        if old is None:
            return
        if objects:
            await self._retire(old, OBJECTS_DRAIN_SECONDS, 0)
        else:
            # Calls over its bindings socket are not ours to count: workerd ends with them.
            self._spawn(self._retire(old, DRAIN_SECONDS, LINGER_SECONDS, DRAIN_SECONDS))

    @asynccontextmanager
    async def use(self, key: str) -> AsyncGenerator[Process]:
        """The script's process for one request, started if need be.

        Raises ScriptGone, or WorkerFailedToStart.
        """
        worker = self._workers.get(key)
        if worker is None:
            raise ScriptGone(key)
        running = worker.process or await self._ensure(worker)
        running.enter()
        try:
            yield running
        finally:
            running.leave()
            worker.last_used = time.monotonic()

    async def died(self, key: str, process: Process) -> None:
        """Called when a connection to this process failed: the next use starts another."""
        worker = self._workers.get(key)
        if worker is not None and worker.process is process:
            worker.detach()
            await process.kill()

    def running(self) -> Mapping[str, int]:
        """Process ids by script key."""
        return {n: w.process.pid for n, w in self._workers.items() if w.process is not None}

    async def _ensure(self, worker: Worker) -> Process:
        async with worker.lock:
            if worker.gone:
                raise ScriptGone(worker.script.key)
            if worker.process is not None:
                return worker.process
            worker.bindings.unwatch()
            storage = self._store.objects_dir(worker.script)
            worker.find_others(self._store.scripts)
            try:
                started = await self._start(
                    worker.script, self._new_path(), worker.bindings.socket, storage
                )
            except BaseException:
                worker.bindings.watch()
                raise
            worker.last_used = time.monotonic()
            worker.process = started
            self._spawn(self._notice_exit(worker, started))
            return started

    async def _start(
        self, script: Script, path: Path, bindings: socket.socket, storage: Path | None
    ) -> Process:
        text = config.render(script, storage, self._around)
        return await process.start(
            script.key, self._workerd, text, path, bindings, self._inherited, self._store.owner
        )

    async def _notice_exit(self, worker: Worker, started: Process) -> None:
        await started.exited()
        if worker.process is started:
            log.warning("worker %s ended by itself: it starts again on next use", started.name)
            worker.detach()
            await started.stop()

    async def _retire(
        self, old: Process, drain: float, linger: float, patience: float = process.STOP_SECONDS
    ) -> None:
        self._retiring.add(old)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(old.idle.wait(), drain)
        await asyncio.sleep(linger)
        await old.stop(patience)
        self._retiring.discard(old)

    async def _start_for_caller(self, worker: Worker) -> None:
        try:
            await self._ensure(worker)
            worker.failures = 0
        except (WorkerFailedToStart, ScriptGone) as error:
            log.error("worker %s did not start for its caller: %s", worker.script.key, error)
            worker.failures += 1
            worker.bindings.unwatch()
            await asyncio.sleep(min(2.0**worker.failures, LONGEST_BACKOFF_SECONDS))
            async with worker.lock:
                # Who called has gone by now; nobody's connection starts it again and again.
                if not worker.gone and worker.process is None:
                    worker.bindings.renew()

    async def _stop_idle(self) -> None:
        while True:
            await asyncio.sleep(min(self._idle_seconds / 4, 5.0))
            for worker in list(self._workers.values()):
                if not worker.lock.locked() and self._is_idle(worker):
                    async with worker.lock:
                        old = worker.detach() if self._is_idle(worker) else None
                        if old is not None:
                            await self._retire(old, 0, 0)

    async def _stop_overuse(self) -> None:
        """End the processes that use more than they may."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for worker in list(self._workers.values()):
                if worker.process is not None and not self._watch.is_pinged(worker.process):
                    self._spawn(self._ping(worker, worker.process))

    async def _ping(self, worker: Worker, running: Process) -> None:
        used = await self._watch.overused(running, worker.members)
        if used is not None and worker.process is running:
            log.warning("worker %s used too much %s: ended", worker.script.key, used)
            await self.died(worker.script.key, running)

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

    def _version_path(self, script: Script) -> str:
        return f"../{self._store.version_dir(script).relative_to(self._store.data_dir)}"

    def _new_path(self) -> Path:
        return Path(f"run/{next(self._numbers)}.capnp")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
