"""What Postgres refuses a role is logged and counted, whoever has to deal with the error.

A service asks for nothing that its role may not do: a refusal is a fault of ours, a grant that
somebody changed, or a service that was taken over.
"""

import psycopg
import structlog
from prometheus_client import Counter
from sqlalchemy.engine import Engine
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.event import listens_for

from webhost_kit.database.values import summary

log = structlog.get_logger(__name__)

_refused = Counter(
    "webhost_database_refusals_total", "Statements that Postgres refused this service's role"
)


def note_refusal(error: BaseException) -> None:
    """Log and count the error, if it is a refusal; it is still the caller's to deal with."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        _refused.inc()
        log.error("refused by the database", error=summary(error))


def note_refusals_of(engine: Engine) -> None:
    """Log and count each refusal of this engine."""

    @listens_for(engine, "handle_error")
    def _note(context: ExceptionContext) -> None:  # pyright: ignore[reportUnusedFunction]
        note_refusal(context.original_exception)
