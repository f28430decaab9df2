"""Logs and metrics: one redactor for all logs, one set of names."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from webhost_kit.process.tracing import log_ids

REDACTED = "[redacted]"

_SECRET_NAMES = re.compile(
    r"(authorization|cookie|password|secret|token|api_?key|private_?key|signature|master_?key)",
    re.IGNORECASE,
)
_SECRET_VALUES = re.compile(
    r"""
      (?:Bearer|Basic)\s+[A-Za-z0-9._~+/=-]+
    | \bsk-[A-Za-z0-9_-]{8,}
    | \bwhs_[A-Za-z0-9_]{8,}
    | \beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*
    | \bv1=[0-9a-f]{32,}
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)
    """,
    re.VERBOSE,
)


def redact_text(text: str) -> str:
    """Return the text with everything that looks like a credential redacted."""
    return _SECRET_VALUES.sub(REDACTED, text)


def redact(value: Any) -> Any:
    """Return the value with credentials redacted, by key name and by pattern, at any depth."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        mapping = cast(Mapping[Any, Any], value)
        return {
            key: REDACTED if _SECRET_NAMES.search(str(key)) else redact(inner)
            for key, inner in mapping.items()
        }
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in cast(list[Any], value)]
    return value


def configure_logging(service: str, *, log_format: str, level: str) -> None:
    """Send this process's logs, redacted, to standard error, as JSON or in readable lines."""

    def redactor(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return cast(EventDict, redact(event))

    def named(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        log_ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor]
    if log_format == "console":
        last = [
            _without_span,
            structlog.processors.format_exc_info,
            redactor,
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0),
        ]
    else:
        last = [
            named,
            structlog.processors.format_exc_info,
            redactor,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_ThroughStructlog()], force=True)
    # Its warnings are one for each request that is no HTTP, or asks for another protocol.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def _without_span(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Leave what a reader looks for: the trace."""
    event.pop("span_id", None)
    return event


class _ThroughStructlog(logging.Handler):
    """Sends what libraries log through the same redactor."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
