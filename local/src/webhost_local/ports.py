"""Free ports on loopback.

A process that chooses a port reserves it for its lifetime: the server that is to bind it starts
later, and may be restarted, and two stacks that start side by side must not choose the same port.
"""

import fcntl
import functools
import os
import secrets
import socket
import tempfile
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Below the range from which Linux and macOS take the ports of outgoing connections, so that
# a port that is free now is not taken by a passing client before its server binds it.
_RANGE = range(20_000, 32_000)

_chosen: set[int] = set()


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose old connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def reserve(port: int) -> bool:
    """Reserve a port until this process ends; say whether no other process of the user has."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def free_port() -> int:
    """A free TCP port at 127.0.0.1, reserved, another one at each call.

    Raises OSError when there is none.
    """
    for _ in range(1000):
        port = secrets.choice(_RANGE)
        if port not in _chosen and is_free(port) and reserve(port):
            _chosen.add(port)
            return port
    raise OSError(f"no free port on {LOOPBACK} between {_RANGE.start} and {_RANGE.stop}")


@functools.cache
def _reservations() -> int:
    """Open the file of which each byte stands for a port. Closing it would end all locks."""
    path = Path(tempfile.gettempdir(), f"webhost-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
