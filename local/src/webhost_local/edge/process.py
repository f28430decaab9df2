"""One workerd process.

Guarantees: it never outlives this process (the kernel kills it, even after `kill -9`), and it
holds the lock of the data directory open, so that a new edge cannot start beside a workerd of the
old one.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import resource
import socket
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from webhost_local.child import tied_to_parent
from webhost_local.edge.errors import WorkerFailedToStart
from webhost_local.edge.owner import Owner

START_SECONDS = 10.0
STOP_SECONDS = 5.0
OUTPUT_BYTES_PER_SECOND = 64 * 1024
LINE_BYTES = 512
"""What a line counts beside its own bytes."""
# workerd closes idle connections after 5 s: ours go first, so that none is found dead.
KEEPALIVE_SECONDS = 3.0

log = logging.getLogger("webhost.edge.worker")


class OutputLimit:
    """How much of a script's output is logged: a second's worth at once, the rest evenly."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bytes = float(OUTPUT_BYTES_PER_SECOND)
        self._at = time.monotonic()
        self._dropped = 0

    def allows(self, size: int) -> bool:
        """Whether a line of so many bytes is logged; says how many were not."""
        now = time.monotonic()
        refilled = self._bytes + (now - self._at) * OUTPUT_BYTES_PER_SECOND
        self._bytes, self._at = min(refilled, OUTPUT_BYTES_PER_SECOND), now
        cost = size + LINE_BYTES
        if cost > self._bytes:
            self._dropped += 1
            return False
        self._bytes -= cost
        if self._dropped:
            log.warning("%s: %s lines were dropped", self._name, self._dropped)
            self._dropped = 0
        return True


def escaped(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Process:
    """A running workerd. Make one with `start`."""

    def __init__(
        self,
        name: str,
        child: asyncio.subprocess.Process,
        http_socket: Path,
        ping_socket: Path,
        bindings: socket.socket,
    ) -> None:
        self.name = name
        self.bindings = bindings
        self._said = OutputLimit(name)
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(
                str(http_socket), limit=0, keepalive_timeout=KEEPALIVE_SECONDS
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._child = child
        self._http_socket = http_socket
        self._ping_socket = ping_socket
        self._last_lines: deque[str] = deque(maxlen=50)
        self._log_lines = False
        self._output = [
            asyncio.create_task(self._read(stream))
            for stream in (child.stdout, child.stderr)
            if stream is not None
        ]

    @property
    def pid(self) -> int:
        return self._child.pid

    def enter(self) -> None:
        """A request begins."""
        self.in_flight += 1
        self.idle.clear()

    def leave(self) -> None:
        """A request has ended."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self.idle.set()

    async def exited(self) -> None:
        """Return once the process has ended and all it wrote is read."""
        await self._child.wait()
        await asyncio.gather(*self._output)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Let workerd finish what it answers, then make sure that it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()
        try:
            await asyncio.wait_for(self.exited(), seconds)
        except TimeoutError:
            await self.kill()
        await self._close()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()
        await self.exited()
        await self._close()

    async def _close(self) -> None:
        await self.session.close()
        self._http_socket.unlink(missing_ok=True)
        self._ping_socket.unlink(missing_ok=True)

    def resident_bytes(self) -> int:
        """Its resident memory, 0 when it has ended."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * resource.getpagesize()

    def processor_s(self) -> float:
        """The processor time that it has used, 0 when it has ended."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def ping(self) -> dict[str, float]:
        """Wait until its event loop turns, which code that never yields keeps it from.

        Returns the limits, in ms, that it gave to scripts in other processes. Raises OSError.
        """
        reader, writer = await asyncio.open_unix_connection(str(self._ping_socket))
        writer.write(b"GET / HTTP/1.1\r\nHost: ping\r\nConnection: close\r\n\r\n")
        try:
            _, found, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        if not found:
            raise ConnectionResetError
        return json.loads(body)

    async def ready(self, control: asyncio.StreamReader) -> None:
        """Wait until both sockets listen. Raises WorkerFailedToStart with workerd's message."""
        waiting = {"http", "ping", "bindings"}
        try:
            async with asyncio.timeout(START_SECONDS):
                while waiting:
                    line = await control.readline()
                    if not line:
                        break
                    waiting.discard(json.loads(line).get("socket"))
        except TimeoutError:
            await self.kill()
            raise WorkerFailedToStart("Script startup exceeded the time limit.") from None
        if waiting:
            await self.stop()
            raise WorkerFailedToStart(self.message())
        self._log_lines = True

    def message(self) -> str:
        """workerd's error output, without this machine's paths and what our own entry adds."""
        lines = [
            re.sub(r"^service main: ", "", line)
            for line in self._last_lines
            if not line.startswith('Socket "')
        ]
        cleaned = re.sub(r"(?<![\w:/])/[^\s\"']+/", "", "\n".join(lines)).strip()
        return cleaned or "The Worker could not be started."

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the reader's limit: that part is skipped
                continue
            if not line:
                return
            # A line that is there is read without a pause: others have to get their turn.
            await asyncio.sleep(0)
            decoded = line.decode(errors="replace").rstrip()
            if not self._log_lines:
                self._last_lines.append(decoded)
            elif self._said.allows(len(line)):
                log.info("%s: %s", self.name, escaped(decoded))


async def start(
    name: str,
    workerd: Path,
    config: str,
    run_path: Path,
    bindings: socket.socket,
    inherited: tuple[int, ...],
    owner: Owner,
) -> Process:
    """Start workerd and wait until it listens.

    `run_path` is the stem, relative to the working directory, of the configuration and of the
    sockets. `bindings` is the listening socket for service bindings. Raises WorkerFailedToStart.
    """
    config_file = run_path.with_suffix(".capnp")
    http_path, ping_path = run_path.with_suffix(".sock"), run_path.with_suffix(".ping")
    config_file.touch(mode=0o600)
    config_file.write_text(config)
    owner.give(config_file)

    tie = tied_to_parent()

    def before_start() -> None:
        owner.become()
        tie()  # After it: a change of the user takes this back.

    control, writer, theirs = await control_channel()
    with contextlib.closing(writer):
        with theirs, listen(http_path) as http, listen(ping_path) as ping:
            arguments: Mapping[str, int] = {
                "--socket-fd=http=": http.fileno(),
                "--socket-fd=ping=": ping.fileno(),
                "--socket-fd=bindings=": bindings.fileno(),
                "--control-fd=": theirs.fileno(),
            }
            child = await asyncio.create_subprocess_exec(
                str(workerd),
                "serve",
                str(config_file),
                *(f"{option}{fd}" for option, fd in arguments.items()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(*arguments.values(), *inherited),
                preexec_fn=before_start,
                env={"TZ": "UTC"},
            )
        process = Process(name, child, http_path, ping_path, bindings)
        try:
            await process.ready(control)
        except asyncio.CancelledError:
            await process.kill()
            raise
        finally:
            config_file.unlink(missing_ok=True)
    return process


async def control_channel() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]:
    """What workerd says of itself, and the socket on which it does.

    Not a pipe: uvloop closes a pipe's descriptor twice, the second time as whatever another thread
    has opened in between, and then the process aborts.
    """
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    return reader, writer, theirs


def listen(path: Path) -> socket.socket:
    """A listening unix socket at this path, which must be short (108 bytes)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock
