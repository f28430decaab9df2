"""One view of all logs: a fixed-width prefix per process, coloured on a terminal.

Written by a thread of its own: an output that blocks (a stopped pager, a full pipe) must not stall
the supervisor. Lines that it cannot keep up with are dropped and counted.
"""

import contextlib
import queue
import threading
from typing import TextIO

from webhost_local import terminal

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_KEPT_LINES = 10_000


class LogView:
    """Lines of many processes on one output. Made before the processes start."""

    def __init__(self, output: TextIO, names: list[str]) -> None:
        self._output = output
        self._width = max(map(len, names))
        self._coloured = output.isatty()
        self._colour = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
        self._lines: queue.Queue[str | None] = queue.Queue(_KEPT_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="logview", daemon=True)
        self._thread.start()

    def line(self, name: str, text: str) -> None:
        """Show one line of a process. Never waits."""
        prefix = f"{name:<{self._width}} |"
        if self._coloured:
            prefix = f"\x1b[{self._colour[name]}m{prefix}\x1b[0m"
        self.plain(f"{prefix} {terminal.plain(text)}")

    def plain(self, text: str) -> None:
        """Show a line of the supervisor's own. Never waits."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def close(self, timeout: float = 2.0) -> None:
        """Write what is left, within `timeout` seconds."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(timeout)

    def _write(self) -> None:
        while (text := self._lines.get()) is not None:
            if self._dropped:
                text = f"({self._dropped} lines dropped)\n{text}"
                self._dropped = 0
            # The reader has gone: the stack goes on without its log.
            with contextlib.suppress(OSError, ValueError):
                self._output.write(text + "\n")
                if self._lines.empty():
                    self._output.flush()
