"""A script's bindings socket: where its callers connect, whether a process of it runs or not.

The edge holds it and hands it to each process. While none runs, the first caller is noticed, and
queued until there is one.
"""

import asyncio
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

from webhost_local.edge.owner import Owner
from webhost_local.edge.process import listen

CLOSED = -1


def path_of(key: str) -> str:
    """Where a script's socket is, relative to the working directory; at most 108 bytes."""
    return f"run/{hashlib.sha256(key.encode()).hexdigest()[:32]}.bindings"


class BindingsSocket:
    """The listening socket of the script with this key; `called` is told of a caller."""

    def __init__(self, key: str, owner: Owner, called: Callable[[], None]) -> None:
        self._path = Path(path_of(key))
        self._owner = owner
        self._called = called
        self.socket = self._listen()
        self.watch()

    def watch(self) -> None:
        """Look for a caller; once one is there, no more. Closed, it stays so."""
        if self.socket.fileno() != CLOSED:
            asyncio.get_running_loop().add_reader(self.socket.fileno(), self._notice)

    def unwatch(self) -> None:
        """Leave callers to the process that listens."""
        if self.socket.fileno() != CLOSED:
            asyncio.get_running_loop().remove_reader(self.socket.fileno())

    def renew(self) -> None:
        """Listen anew: a process that listens on the old socket is called by nobody any more.

        Who waits there is answered by that process, or not at all where there is none.
        """
        self.close()
        self.socket = self._listen()
        self.watch()

    def close(self) -> None:
        """Stop listening."""
        self.unwatch()
        self.socket.close()

    def remove(self) -> None:
        """Stop listening, for good."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _notice(self) -> None:
        self.unwatch()
        self._called()

    def _listen(self) -> socket.socket:
        new = self._path.with_suffix(".new")
        listening = listen(new)
        self._owner.give(new)
        # In one step: a caller finds the one before or this one.
        new.rename(self._path)
        return listening
