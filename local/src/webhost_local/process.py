"""One supervised process: started, watched until ready, started again when it dies.

It is tied to the supervisor by the kernel (it dies when the supervisor does), leads a process
group of its own (a Ctrl-C reaches the supervisor alone; what it leaves behind is found), and its
output goes to the log view line by line.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from webhost_local.child import tied_to_parent
from webhost_local.data_dir import StackError
from webhost_local.forked import Forked, ForkServer
from webhost_local.logview import LogView

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
# A process that was ready for this long has recovered: restart delays begin anew.
HEALTHY_AFTER_S = 2.0
_READ_BYTES = 65536
_ASK_EVERY_S = 0.1
_LAST_WORDS_S = 0.5
_ASKED_AGAIN = 2 / 3
"""Of its grace: a service then cuts off what is under way."""


def _nothing() -> None:
    return


@dataclass(frozen=True)
class Module:
    """A command that is a Python module, forked by a server that has its libraries."""

    name: str
    forks: ForkServer


class Misconfigured(StackError):
    """A process ended because its configuration cannot work: starting it again changes nothing."""


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """What a process is. The hooks may block; they run in threads.

    `prepare` runs before every start, `is_ready` is asked until it says yes, `on_ready` runs
    then, before it counts as ready. `why_not` says what keeps it from being ready, if it can say.
    `env` is the whole environment. `user` and `death_signal` are not for a `Module`, which runs as
    its server does and is killed with it.
    """

    name: str
    command: list[str] | Module
    env: dict[str, str] = field(repr=False)
    is_ready: Callable[[], bool]
    prepare: Callable[[], None] = _nothing
    on_ready: Callable[[], None] = _nothing
    why_not: Callable[[], str | None] = _nothing
    url: str | None = None
    cwd: Path
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    grace_s: float = 15.0


class Process:
    """Keeps one process running from `start()` to `stop()`, or until it is `Misconfigured`.

    `on_change` is called on new pids, `on_misconfigured` with the process's last line.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        log: LogView,
        on_change: Callable[[], None],
        on_misconfigured: Callable[[Misconfigured], None],
    ) -> None:
        self.spec = spec
        self.pid: int | None = None
        self.ready = asyncio.Event()
        self._log = log
        self._on_change = on_change
        self._on_misconfigured = on_misconfigured
        self._last_line = ""
        self._stopping = asyncio.Event()
        self._child: asyncio.subprocess.Process | Forked | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_running(), name=self.spec.name)

    async def stop(self) -> None:
        """End it: its stop signal, twice, then SIGKILL after its grace. Returns when it is gone."""
        self._stopping.set()
        if self._task is None:
            return
        self._signal(self.spec.stop_signal)
        done, _ = await asyncio.wait([self._task], timeout=self.spec.grace_s * _ASKED_AGAIN)
        if not done:  # it may be waiting for what is under way
            self._signal(self.spec.stop_signal)
            left_s = self.spec.grace_s * (1 - _ASKED_AGAIN)
            done, _ = await asyncio.wait([self._task], timeout=left_s)
        if not done:
            self._log.line(self.spec.name, f"still there after {self.spec.grace_s:g} s, killed")
            self.kill()
        await self._task

    def kill(self) -> None:
        """SIGKILL, for those who do not wait."""
        self._stopping.set()
        self._signal(signal.SIGKILL)
        if isinstance(self.spec.command, Module):
            self.spec.command.forks.resume()

    async def _keep_running(self) -> None:
        delay = FIRST_DELAY_S
        while not self._stopping.is_set():
            began_ready: float | None = None
            try:
                await asyncio.to_thread(self.spec.prepare)
                began_ready = await self._run_once()
            except Misconfigured as error:
                self._on_misconfigured(error)
                return
            except Exception as error:
                self._log.line(self.spec.name, f"cannot start: {error}")
            if self._stopping.is_set():
                return
            if began_ready is not None and time.monotonic() - began_ready >= HEALTHY_AFTER_S:
                delay = FIRST_DELAY_S
            self._log.line(self.spec.name, f"starting again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(delay * 2, LONGEST_DELAY_S)

    async def _run_once(self) -> float | None:
        """Run it until it ends; return when it became ready, if it ever did."""
        if self._stopping.is_set():
            return None
        # A pipe of our own: what the process leaves behind may hold it open, and asyncio's
        # would then keep `wait()` from returning.
        reading, writing = os.pipe()
        output = asyncio.create_task(self._copy_output(reading))
        try:
            child = await self._launch(writing)
        finally:
            os.close(writing)
        self._child = child
        self.pid = child.pid
        self._on_change()
        if self._stopping.is_set():  # asked to stop before there was anybody to signal
            self._signal(self.spec.stop_signal)
        watch = asyncio.create_task(self._watch_readiness())
        code = await child.wait()
        self._child = None
        watch.cancel()
        self.ready.clear()
        # Only its own children may be left; nothing else is in its process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        await asyncio.wait([output], timeout=_LAST_WORDS_S)
        output.cancel()
        if not self._stopping.is_set():
            self._log.line(self.spec.name, _ending(code))
            if code == os.EX_CONFIG:
                raise Misconfigured(f"{self.spec.name} cannot run as configured: {self._last_line}")
        [ready_since] = await asyncio.gather(watch, return_exceptions=True)
        return ready_since if isinstance(ready_since, float) else None

    async def _launch(self, output: int) -> asyncio.subprocess.Process | Forked:
        spec = self.spec
        if isinstance(spec.command, Module):
            return await spec.command.forks.fork(
                spec.command.name, env=spec.env, cwd=spec.cwd, output=output
            )
        return await asyncio.create_subprocess_exec(
            *spec.command,
            env=spec.env,
            cwd=spec.cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=spec.user,
            group=spec.user,
            extra_groups=[] if spec.user else None,
            preexec_fn=tied_to_parent(spec.death_signal),
        )

    async def _watch_readiness(self) -> float:
        """Ask until it is ready, and do what has to be done then; return when that was."""
        while True:
            try:
                if await asyncio.to_thread(self.spec.is_ready):
                    await asyncio.to_thread(self.spec.on_ready)
                    self.ready.set()
                    return time.monotonic()
            except Exception as error:
                self._log.line(self.spec.name, f"not ready: {error}")
            await asyncio.sleep(_ASK_EVERY_S)

    async def _copy_output(self, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
        )
        rest = b""
        try:
            while chunk := await reader.read(_READ_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _READ_BYTES:  # a line without end is shown in pieces
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._show(line)
        finally:
            if rest:
                self._show(rest)
            transport.close()

    def _show(self, line: bytes) -> None:
        self._last_line = line.decode(errors="replace").rstrip("\r")
        self._log.line(self.spec.name, self._last_line)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)


def _ending(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
