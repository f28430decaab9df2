"""Named points at which a fault test can make a real process die, or stand still.

A process started with `WEBHOST_CRASH_FILE` dies by SIGKILL when it reaches the point that is named
in that file; the file is removed first, so that the restarted process continues. Behind ` stop` it
stands still there, by SIGSTOP. Without the variable, which only a local stack may set, a crash
point costs one comparison.
"""

import os
import signal
from pathlib import Path

_file = Path(os.environ["WEBHOST_CRASH_FILE"]) if "WEBHOST_CRASH_FILE" in os.environ else None


def crash_point(name: str) -> None:
    """Die or stand still here, once, if a test asked for it."""
    if _file is None:
        return
    try:
        wanted, _, stop = _file.read_text("utf-8").strip().partition(" ")
    except FileNotFoundError:
        return
    if wanted == name:
        _file.unlink()
        os.kill(os.getpid(), signal.SIGSTOP if stop else signal.SIGKILL)
