"""The deadline of the request that is being carried out, see `webhost_contracts.deadlines`.

Guarantees: what comes too late is not begun, and a transaction does not commit past the deadline,
however long the process was frozen and wherever: Postgres itself, by its own clock, refuses the end
of the transaction, or ends the session that does not go on in time.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import deadlines

from webhost_kit.clock import now_ms
from webhost_kit.errors import TooLate

_until_ms: ContextVar[int | None] = ContextVar("deadline", default=None)

_LEFT = text("""
    SELECT set_config(
        'idle_in_transaction_session_timeout', least(:most_ms, greatest(1, left_ms))::text, true
    ), left_ms > 0
    FROM (
        SELECT CAST(:until_ms AS bigint) - floor(extract(epoch FROM clock_timestamp()) * 1000)
    ) AS it (left_ms)
""")


def require_in_time(headers: Mapping[str, str] | None) -> int | None:
    """Return the deadline of a request with these headers. Raises TooLate where it has passed."""
    until_ms = deadlines.of(headers)
    if until_ms is not None and (late_ms := now_ms() - until_ms) > 0:
        raise TooLate(f"The request came {late_ms} ms too late; are the clocks right?")
    return until_ms


@contextmanager
def of_request(headers: Mapping[str, str] | None) -> Generator[None]:
    """Carry out a request that came with these headers. Raises TooLate."""
    token = _until_ms.set(require_in_time(headers))
    try:
        yield
    finally:
        _until_ms.reset(token)


async def limit_commit(connection: AsyncConnection, most_ms: int) -> None:
    """Let the transaction end before the deadline, and in `most_ms`, or not at all.

    Raises TooLate where it has passed; without a deadline nothing happens.
    """
    until_ms = _until_ms.get()
    if until_ms is None:
        return
    found = await connection.execute(_LEFT, {"until_ms": until_ms, "most_ms": most_ms})
    if not found.one()[1]:
        raise TooLate("The request was carried out too late, and is undone.")
