"""What a service needs before it may answer, each by name."""

from collections.abc import Callable
from dataclasses import dataclass, field

from webhost_kit.process.metrics import ReadGauge

_ready = ReadGauge(
    "webhost_ready", "1 where this check of /readyz is passed, 0 where not", ["check"]
)

Check = Callable[[], str | None]
"""Returns None if healthy, otherwise what is wrong."""


@dataclass
class Readiness:
    """The named checks behind `/readyz`. A service is ready when none of them complains."""

    checks: dict[str, Check] = field(default_factory=dict[str, Check])
    notes: dict[str, Check] = field(default_factory=dict[str, Check])

    def add(self, name: str, check: Check) -> None:
        """Make the service's readiness depend on this too."""
        self.checks[name] = check
        _ready.read(lambda: check() is None, name)

    def report(self) -> dict[str, str]:
        """Return every dependency with `ok`, `ok: ` and a note, or what is wrong."""
        return {name: check() or self._ok(name) for name, check in self.checks.items()}

    def ready(self) -> bool:
        """Say whether nothing is wrong."""
        return all(check() is None for check in self.checks.values())

    def _ok(self, name: str) -> str:
        note = self.notes[name]() if name in self.notes else None
        return f"ok: {note}" if note else "ok"
