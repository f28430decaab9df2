"""Imported first by a service's process: what libraries would load only in case is not loaded.

Each of them takes the absence of the other as a choice. For a service's process alone: what else
runs in this interpreter may well use them.
"""

import sys
from importlib import import_module


def _hide(name: str) -> bool:
    """Let imports of this module fail from now on; not where it is loaded already."""
    if name in sys.modules:
        return False
    sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    return True


# httpx has a command line, structlog shows tracebacks in colour: a service does neither.
_hide("pygments")
_hide("rich")

# For WebSockets, which the platform does not use. The gateway has a use of its own for it.
if _hide("aiohttp"):
    try:
        import_module("nats.aio.transport")
    finally:
        del sys.modules["aiohttp"]
