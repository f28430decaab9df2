"""The connection to NATS: it always reconnects, and logs what the server denies.

Of several servers it goes to each in its turn, in an order of its own: to the one that it leaves it
comes back last.
"""

import asyncio
import random
import re
from collections.abc import Mapping
from typing import Any

import nats
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from prometheus_client import Counter
from webhost_contracts.bus_urls import servers_of

from webhost_kit.bus import streams
from webhost_kit.bus.contact import Contact

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 5.0

_REFUSAL = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.I)
_refused = Counter(
    "webhost_bus_refusals_total",
    "What this service may not do on the bus, and tried to: to publish, or a subscription",
    ["action"],
)
for _action in ("publish", "subscription"):
    _refused.labels(_action)
_errors = Counter("webhost_bus_errors_total", "Other errors of the connection to NATS")
_reconnects = Counter(
    "webhost_bus_reconnects_total", "How often the connection to NATS was made again"
)


class Bus:
    """One process's connection and its JetStream context.

    `replicas` is how many servers are to hold each stream that this service makes, where it makes
    any.
    """

    def __init__(self, client: Client, replicas: int | None = None) -> None:
        self.client = client
        self.contact = Contact(client)
        self.replicas = replicas
        self.js: JetStreamContext = client.jetstream(timeout=REQUEST_TIMEOUT_S)

    def check(self) -> str | None:
        """Say what is wrong with the connection, or with the server that it is to."""
        return self.contact.check() if self.client.is_connected else "away: not connected"

    @property
    def reconnects(self) -> int:
        """How often the connection was re-established: the server may be another one since then."""
        return self.client.stats["reconnects"]

    async def last_sequence(self, stream: str, subject: str) -> int:
        """Return the sequence of the newest message on a subject or a pattern; 0 if there is none.

        Raises NatsError, TimeoutError or OSError.
        """
        try:
            return (await self.js.get_last_msg(stream, subject)).seq or 0
        except NotFoundError:
            return 0

    async def close(self) -> None:
        """Flush what is under way and close, within a bounded time."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self.client.drain()
        except (NatsError, TimeoutError, OSError):
            await self.client.close()


def is_tls(urls: str) -> bool:
    """Say whether connections begin with TLS, which nobody in between can then prevent."""
    return all(url.startswith("tls://") for url in servers_of(urls))


def in_turn(urls: str) -> Mapping[str, Any]:
    """Return the client's options for these servers.

    By itself it would begin every reconnection with any of them, the one it comes from included.
    """
    servers = servers_of(urls)
    return {"servers": random.sample(servers, len(servers)), "dont_randomize": True}


def inbox_prefix(name: str) -> bytes:
    """Return the prefix of a service's inboxes, the only ones on which a stream may push to it."""
    return f"_INBOX.{name}".encode()


async def log_error(error: Exception) -> None:
    """Log what the server complains of; count what it refused, of which the sender itself only
    sees that no answer comes.
    """
    said = str(error)
    if (refusal := _REFUSAL.search(said)) is None:
        log.error("bus", error=said)
        _errors.inc()
        return
    action, subject = refusal.groups()
    _refused.labels(action.lower()).inc()
    log.error("refused by the bus", action=action, subject=subject)


async def connect(urls: str, name: str, *, replicas: int | None = None) -> Bus:
    """Connect to one of the servers and declare the streams, waiting for as long as it takes."""

    async def on_disconnect() -> None:
        log.warning("bus disconnected")

    async def on_reconnect() -> None:
        _reconnects.inc()
        log.info("bus connected again")

    client = await nats.connect(
        **in_turn(urls),
        name=name,
        inbox_prefix=inbox_prefix(name),
        tls_handshake_first=is_tls(urls),
        error_cb=log_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.5,
        connect_timeout=2,
        ping_interval=2,
        max_outstanding_pings=2,
    )
    bus = Bus(client, replicas)
    while True:
        try:
            await streams.declare(bus.js, replicas)
            return bus
        except (NatsError, TimeoutError) as error:
            log.warning("streams not declared yet", error=str(error))
            await asyncio.sleep(0.5)
