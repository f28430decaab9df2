"""The demo's own stack: `webhost up` in a child process, ended whatever happens."""

import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from webhost_local import state
from webhost_local.child import processes_marked, tied_to_parent
from webhost_local.data_dir import DataDir, StackError
from webhost_local.ports import LOOPBACK, free_port
from webhost_local.state import Status
from webhost_local.supervisor import MARK

from webhost_cli.errors import CommandError

_START_S = 120.0
_STOP_S = 40.0
_LAST_LINES = 40


class OwnStack:
    """A stack in `root`, on a free port. Its log is `root`/demo.log, one file per run."""

    def __init__(self, root: Path) -> None:
        self.data_dir = DataDir.at(root)
        self.log = self.data_dir.root / "demo.log"

    @contextmanager
    def running(self) -> Generator[Status]:
        """Start it, and stop it when the block ends. Raises CommandError when it cannot start."""
        if self.data_dir.is_locked():
            raise CommandError(f"a stack is already running in {self.data_dir.root}")
        self.data_dir.make()
        port = free_port()
        command = ["up", "--data-dir", str(self.data_dir.root), "--port", str(port)]
        with self.log.open("wb") as log:
            child = subprocess.Popen(  # noqa: S603  our own command
                [sys.executable, "-P", "-m", "webhost_cli", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is ours to handle: the stack is stopped after the demo.
                start_new_session=True,
                preexec_fn=tied_to_parent(signal.SIGTERM),
            )
        try:
            yield self._ready(child, f"http://{LOOPBACK}:{port}")
        finally:
            _stop(child)

    def left_behind(self) -> list[str]:
        """Processes of the stack that are still there."""
        root = str(self.data_dir.root)
        return [f"{process.pid} {process.name()}" for process in processes_marked(MARK, root)]

    def log_tail(self) -> str:
        """The end of the stack's log."""
        try:
            lines = self.log.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-_LAST_LINES:])

    def _ready(self, child: subprocess.Popen[bytes], origin: str) -> Status:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise CommandError(f"the stack ended at once, with exit code {child.returncode}")
            try:
                status = state.read(self.data_dir)
            except StackError:  # not yet
                status = None
            if status is not None and status.origin == origin:
                return status
            time.sleep(0.1)
        raise CommandError(f"the stack was not ready after {_START_S:g} s")


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
