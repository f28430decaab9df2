"""Imported first by a service's process, so that its imports are as few and short as can be.

For a service's process alone: what else runs in this interpreter may well use what is left out.
"""

import gc
import sys

# What is imported stays: looking for cycles in it again and again is a fifth of a start. Until
# `garbage.collect_less`.
gc.disable()

# What libraries would load only in case; each takes the absence of the other as a choice.
# httpx has a command line, structlog shows tracebacks in colour, nats-py speaks WebSockets too: a
# service does none of that.
for name in ("pygments", "rich", "aiohttp"):
    sys.modules.setdefault(name, None)  # pyright: ignore[reportArgumentType]
