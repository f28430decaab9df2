"""One script's place: its bindings socket and, while it is in use, its process."""

import asyncio
import time
from collections.abc import Mapping

from webhost_local.edge import config
from webhost_local.edge.bindings import BindingsSocket
from webhost_local.edge.model import Script
from webhost_local.edge.process import Process


class Worker:
    """A script and what runs of it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bindings: BindingsSocket
        self.process: Process | None = None
        self.lock = asyncio.Lock()
        self.last_used = time.monotonic()
        self.gone = False
        self.failures = 0
        """How many starts for a caller have failed in a row."""
        self.members: frozenset[str] = frozenset()
        """The keys of the scripts that its process runs."""
        self.calls: set[str] = set()
        """The keys of the scripts that its process calls in theirs."""

    def find_others(self, scripts: Mapping[str, Script]) -> None:
        """See which scripts a process that starts now runs and calls."""
        self.members = frozenset(m.key for m in config.members(self.script, scripts))
        self.calls = config.connects_to(self.script, scripts)

    def is_outdated(self, changed: Script, scripts: Mapping[str, Script]) -> bool:
        """Say whether its process is of before this script's change."""
        calls = config.connects_to(self.script, scripts)
        # A connection for RPC is kept, and would go on leading to the old version.
        kept = changed.namespace is not None and changed.key in calls
        return kept or changed.key in self.members or calls != self.calls

    def detach(self) -> Process | None:
        """Return its process, which it has no longer: a caller is noticed again."""
        old, self.process = self.process, None
        if old is not None:
            self.bindings.watch()
        return old
