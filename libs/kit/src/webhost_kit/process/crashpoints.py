"""Named places at which a fault test lets a real process die.

A process started with `WEBHOST_CRASH_FILE` dies by SIGKILL when it reaches the point whose name
stands in that file; the file is removed first, so that the restarted process goes on. Without
the variable, which only a local stack may have, a crash point costs one comparison.
"""

import os
import signal
from pathlib import Path

_file = Path(os.environ["WEBHOST_CRASH_FILE"]) if "WEBHOST_CRASH_FILE" in os.environ else None


def crash_point(name: str) -> None:
    """Die here, once, if a test asked for it."""
    if _file is None:
        return
    try:
        wanted = _file.read_text("utf-8").strip()
    except FileNotFoundError:
        return
    if wanted == name:
        _file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
