"""Processes of the stack: how they are tied to their parent, found again, and ended.

A child is started with `tied_to_parent()` as its `preexec_fn`: the kernel then ends it when
the thread that started it dies, however that happens. Start children from the main thread.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

# Loaded before any fork: a child between fork and exec must not take the loader's lock.
_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def tied_to_parent(death_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """What a child runs between fork and exec, so that it gets `death_signal` when we die.

    Pass the result as `preexec_fn`; `subprocess` runs it after a change of user, which would
    clear the setting.
    """
    parent = os.getpid()

    def tie() -> None:
        if _libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            os._exit(127)
        # The parent may have died between the fork and the call above.
        if os.getppid() != parent:
            os._exit(127)

    return tie


def be_named(name: str) -> None:
    """Let `ps -e` and `top` show this process by this name; the kernel keeps its first 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def processes_working_in(directory: Path) -> list[psutil.Process]:
    """Processes whose working directory is `directory`: for Postgres, all of a cluster's."""
    wanted = str(directory.resolve())
    return [process for process in psutil.process_iter() if _look(process.cwd) == wanted]


def processes_marked(name: str, value: str) -> list[psutil.Process]:
    """Processes that were started with `name=value` in their environment; never ourselves."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        environment = _look(process.environ)
        if environment and environment.get(name) == value and process.pid != os.getpid():
            found.append(process)
    return found


def end(processes: Iterable[psutil.Process], *, first: signal.Signals, grace: float) -> None:
    """Send `first` to each, and SIGKILL to those that are still there after `grace` seconds."""
    remaining = list(processes)
    for process in remaining:
        with contextlib.suppress(psutil.Error):
            process.send_signal(first)
    deadline = time.monotonic() + grace
    while (remaining := [process for process in remaining if _alive(process)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    for process in remaining:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(remaining, timeout=5)


def _alive(process: psutil.Process) -> bool:
    # Another process's zombie holds no resources any more; only its parent can reap it.
    return process.is_running() and _look(process.status) != psutil.STATUS_ZOMBIE


def _look(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (psutil.Error, OSError):  # it has ended, or we may not inspect it
        return None
