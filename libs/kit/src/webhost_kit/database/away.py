"""The one decision whether a failure means that Postgres is away, by SQLSTATE.

A read-only, full, overloaded or stopping server is away just as one that cannot be reached: the
same request may succeed later, on another connection. Everything else is a failure of its own.
"""

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolExhausted

AWAY_CLASSES = frozenset(
    {
        "08",  # connection exception
        "53",  # insufficient resources: disk full, out of memory, too many connections
        "57",  # operator intervention: shutdown, cancelled, idle session ended
        "58",  # system error: input or output failed
    }
)
AWAY_STATES = frozenset(
    {
        "25006",  # read-only transaction: a standby, or a server set to read only
        "25P03",  # idle in transaction for too long: this session was ended
        "25P04",  # transaction took too long: this session was ended
    }
)
CONFLICT_CLASS = "40"
"""A deadlock or a serialization failure: the same transaction may succeed at once."""


def is_away(error: BaseException) -> bool:
    """Say whether this failure means that Postgres is away, and nothing else."""
    if isinstance(error, PoolExhausted | OSError | TimeoutError):
        return True
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (
            isinstance(error.orig, psycopg.Error) and is_away(error.orig)
        )
    if isinstance(error, psycopg.Error):
        state = error.sqlstate
        if state is None:
            return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return state[:2] in AWAY_CLASSES or state in AWAY_STATES
    return False


def is_conflict(error: BaseException) -> bool:
    """Say whether another transaction was in the way, so that this one may be repeated."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(cause, psycopg.Error) and (cause.sqlstate or "")[:2] == CONFLICT_CLASS
