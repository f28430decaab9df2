"""Starts Python processes without their imports: `python -m webhost_local.fork_server`.

It imports the libraries that the stack's processes share, once, and forks for each process: what
takes an interpreter two seconds of a processor takes a fork some milliseconds.

Consumes: requests on the socket that is its stdin (`webhost_local.forked` sends them): a `Request`
    as JSON, with two descriptors, the new process's output and where to report.
Emits: on the latter the new process's pid, a line, and once it has ended its exit code (that of
    `subprocess`: negative for a signal), another.
Guarantees: a forked process is what `python -P -m <module>` would be, with the environment,
    working directory and output of its request: the server imports none of our modules but what
    it needs to fork, opens nothing, and has one thread. What a service leaves out by itself
    (`webhost_kit.process.lean`) is there all the same. It leads a session. It is killed when nobody
    reads its reports any more; the kernel ends it when the server dies, and the server when its
    parent does. A request that cannot be carried out is answered by closing its report.
"""

import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys

import msgspec

from webhost_local.child import be_named, tied_to_parent

LIBRARIES = (
    "aiohttp",
    "cachetools",
    "cloudflare.resources.workers",
    "faststream.nats",
    "fastapi",
    "fastapi_offline",
    "httptools",
    "httpx",
    "jwt",
    "nacl.signing",
    "nats.js",
    "opentelemetry.trace",
    "prometheus_client",
    "psycopg",
    "pydantic_settings",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.ext.asyncio",
    "starlette.applications",
    "structlog",
    "typeid",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)
MAX_REQUEST = 65536
"""Bytes of a request: what the socket carries in one piece, with room to spare."""


class Request(msgspec.Struct):
    """What to start: a module, as by `python -m`, its whole environment, its directory."""

    module: str
    env: dict[str, str]
    cwd: str


def main() -> None:
    """Serve until the other end of stdin is closed; in a forked process, run its module."""
    gc.disable()
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    control = socket.socket(fileno=os.dup(0))
    request = _serve(control)
    if request is not None:
        gc.enable()
        sys.argv = [request.module]
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def _serve(control: socket.socket) -> Request | None:
    """Return None when nobody asks any more, and in each forked process what it is to run."""
    waking, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, _nothing)
    polled = select.poll()
    polled.register(control, select.POLLIN)
    polled.register(waking, select.POLLIN)
    tie = tied_to_parent()
    reports: dict[int, socket.socket] = {}
    while True:
        ready = {descriptor for descriptor, _ in polled.poll()}
        if waking in ready:
            os.read(waking, 4096)
        for pid, report in reports.items():
            if report.fileno() in ready:  # nobody reads it any more
                os.kill(pid, signal.SIGKILL)
        for report in _reap(reports):
            polled.unregister(report)
            report.close()
        if control.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST, 2)
        if not message:
            return None
        request = msgspec.json.decode(message, type=Request)
        output, report = descriptors[0], socket.socket(fileno=descriptors[1])
        try:
            pid = os.fork()
        except OSError:
            os.close(output)
            report.close()
            continue
        if pid == 0:
            tie()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for ours in (control, report, *reports.values()):
                ours.close()
            for ours in (waking, woken):
                os.close(ours)
            _become(request, output)
            return request
        os.close(output)
        reports[pid] = report
        polled.register(report, 0)
        _tell(report, pid)


def _nothing(*_: object) -> None:
    """Ignore the signal, but be woken by it."""


def _become(request: Request, output: int) -> None:
    """Make this new process what was asked for, but for its code."""
    os.setsid()
    be_named(request.module)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, standard)
    os.close(nothing)
    os.close(output)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)


def _reap(reports: dict[int, socket.socket]) -> list[socket.socket]:
    """Report who has ended; return their reports, which are over."""
    over: list[socket.socket] = []
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            break
        over.append(reports.pop(pid))
        _tell(over[-1], os.waitstatus_to_exitcode(status))
    return over


def _tell(report: socket.socket, number: int) -> None:
    try:
        report.sendall(b"%d\n" % number)
    except OSError:  # whoever asked has gone
        return


if __name__ == "__main__":
    main()
