"""Imported first by a service's process: what libraries would load only in case is not loaded.

Each of them takes the absence of the other as a choice. For a service's process alone: what else
runs in this interpreter may well use them.
"""

import sys

# httpx has a command line, structlog shows tracebacks in colour, nats-py speaks WebSockets too: a
# service does none of that.
for name in ("pygments", "rich", "aiohttp"):
    sys.modules.setdefault(name, None)  # pyright: ignore[reportArgumentType]
