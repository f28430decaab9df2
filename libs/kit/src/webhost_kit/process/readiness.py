"""What a service needs before it may answer, each by name."""

from collections.abc import Callable
from dataclasses import dataclass, field

Check = Callable[[], str | None]
"""Returns None when all is well, otherwise what is wrong."""


@dataclass
class Readiness:
    """The named checks behind `/readyz`. A service is ready when none of them complains."""

    checks: dict[str, Check] = field(default_factory=dict[str, Check])

    def add(self, name: str, check: Check) -> None:
        """Make the service's readiness depend on this too."""
        self.checks[name] = check

    def report(self) -> dict[str, str]:
        """Return every dependency with `ok` or what is wrong."""
        return {name: check() or "ok" for name, check in self.checks.items()}
