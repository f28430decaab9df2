"""Until when a request on the bus may be carried out: its sender says so in a header.

The sender waits longer than that by CLOCKS_APART_MS. Once it has reported that no reply came, the
request is not begun, and nothing of it is recorded, any more: a message that lay before a process
which was frozen, or in a connection that came back, has no effect. That holds as long as the clocks
of the sender, the service and its Postgres are no further apart; a service whose clock is ahead of
the sender's by the whole time takes no requests, and its log says so.
"""

from collections.abc import Mapping

HEADER = "Webhost-Deadline-Ms"
CLOCKS_APART_MS = 500


def headers(now_ms: int, wait_s: float) -> dict[str, str]:
    """Return the header of a request that is sent now, and whose reply is waited for so long."""
    return {HEADER: str(now_ms + round(wait_s * 1000) - CLOCKS_APART_MS)}


def of(headers: Mapping[str, str] | None) -> int | None:
    """Return the deadline of a request in Unix milliseconds, None where its sender named none."""
    value = (headers or {}).get(HEADER)
    return None if value is None else int(value)
