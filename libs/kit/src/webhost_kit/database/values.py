"""Errors of Postgres without the values that a statement was about.

The server says which row was in the way (DETAIL), and which value it could not read; both end in
whatever logs the error. What is left names the kind of error, and what of the schema it is about.
"""

from typing import Any

import psycopg
from sqlalchemy.engine import Engine
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.event import listens_for

_DATA_EXCEPTION = "22"
"""The class of SQLSTATEs whose message quotes the value."""


def summary(error: BaseException) -> str:
    """Return what went wrong, on one line, without values."""
    if not isinstance(error, psycopg.Error):
        return repr(error)
    state = error.sqlstate or ""
    said = "" if state.startswith(_DATA_EXCEPTION) else str(error).partition("\n")[0]
    return f"{type(error).__name__} {state}: {said}".rstrip(" :")


def strip_values(error: BaseException) -> None:
    """Take the values out of what an error of Postgres says of itself, now and later."""
    if isinstance(error, psycopg.Error):
        error.args = (summary(error),)


def strip_values_of(engine: Engine) -> None:
    """Let no error of this engine say which values it was about."""

    @listens_for(engine, "handle_error")
    def _strip(context: ExceptionContext) -> None:  # pyright: ignore[reportUnusedFunction]
        original: Any = context.original_exception
        strip_values(original)
        if context.sqlalchemy_exception is not None and isinstance(original, psycopg.Error):
            context.sqlalchemy_exception.args = (original.args[0],)
