"""Processes of Python modules, forked by a server that has their libraries (`fork_server`)."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from webhost_local.child import tied_to_parent
from webhost_local.data_dir import StackError
from webhost_local.fork_server import MAX_REQUEST, Request


class Forked:
    """One process; what asyncio's subprocesses have of methods is as theirs.

    It is killed when the loop that asked for it ends, as it then has no owner.
    """

    def __init__(
        self, pid: int, reports: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.create_task(self._read_end(reports, writer), name=f"process {pid}")

    async def wait(self) -> int:
        """Return its exit code once it has ended, negative for a signal."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # its end is not read yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def _read_end(self, reports: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        try:
            said = await reports.readline()
        finally:
            writer.close()
        # A server that died took it along.
        self.returncode = int(said) if said else -signal.SIGKILL
        return self.returncode


class ForkServer:
    """A fork server, started when the first process is asked for, and again when it died.

    `env` is its own environment, which /proc shows of every process that it forks; `close` ends
    it and them.
    """

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        self._env = env
        self._cwd = cwd
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    async def fork(self, module: str, *, env: dict[str, str], cwd: Path, output: int) -> Forked:
        """Start what `python -P -m <module>` would be, with `output` as its stdout and stderr.

        Raises StackError when the server died meanwhile, or could not fork.
        """
        request = msgspec.json.encode(Request(module, env, str(cwd)))
        if len(request) > MAX_REQUEST:
            raise StackError(f"{module} cannot be started: its environment is too large")
        control = self._running()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(control, [request], [output, theirs.fileno()])
            reports, writer = await asyncio.open_unix_connection(sock=ours)
        except OSError as error:
            ours.close()
            raise StackError(f"{module} cannot be started: its fork server died") from error
        started = b""
        try:
            started = await reports.readline()
        finally:
            if not started:
                writer.close()
        if not started:
            raise StackError(f"{module} cannot be started: its fork server died, or could not fork")
        return Forked(int(started), reports, writer)

    def resume(self) -> None:
        """Let the server go on, if somebody stopped it: no end is reported meanwhile."""
        if self._server is not None:
            self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server, and with it what it forked. It may be used again."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            self._server.kill()  # even if it is stopped; the kernel ends what it forked
            self._server.wait()
            self._server = None

    def _running(self) -> socket.socket:
        if self._control is not None and self._server is not None:
            if self._server.poll() is None:
                return self._control
            self.close()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "webhost_local.fork_server"],
                env=self._env,
                cwd=self._cwd,
                stdin=theirs.fileno(),
                start_new_session=True,
                preexec_fn=tied_to_parent(),
            )
        return self._control
