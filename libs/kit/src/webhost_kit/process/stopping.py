"""What a process does that is told to end before it can end well."""

import signal
import sys
from types import FrameType


def end_when_told(*signals: signal.Signals) -> None:
    """End at SIGTERM and at these, from now on and until a service takes the signal itself.

    The kernel ignores what the first process of a container has no handler for: one that waits for
    its schema or for the bus would stay until it is killed.
    """
    for number in (signal.SIGTERM, *signals):
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
