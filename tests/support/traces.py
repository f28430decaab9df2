"""The trace context of a caller's."""

import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class CallersTrace:
    """A trace that a caller began, and the flags that it sends."""

    trace_id: str
    span_id: str
    flags: str

    @property
    def headers(self) -> dict[str, str]:
        """Return the header that says so."""
        return {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.flags}"}


def trace_of(flags: str = "01") -> CallersTrace:
    """Begin a trace."""
    return CallersTrace(secrets.token_hex(16), secrets.token_hex(8), flags)
