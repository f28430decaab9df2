"""Whose work a call to a provider is for, for as long as a step runs.

The saga's steps say it once; a provider's rate limiter reads it at each call.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Purpose:
    """For which user, None for the installation itself; and whether something is removed."""

    user_id: str | None = None
    removes: bool = False


_INSTALLATIONS_OWN = Purpose()
_purpose: ContextVar[Purpose] = ContextVar("purpose", default=_INSTALLATIONS_OWN)


@contextmanager
def calls_for(user_id: str | None, *, removes: bool) -> Generator[None]:
    """Say what the calls within the block are for."""
    token = _purpose.set(Purpose(user_id, removes))
    try:
        yield
    finally:
        _purpose.reset(token)


def purpose() -> Purpose:
    """Return what the calls made now are for."""
    return _purpose.get()
