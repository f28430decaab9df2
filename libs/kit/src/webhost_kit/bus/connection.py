"""The connection to NATS: it always reconnects, and logs what the server denies."""

import asyncio

import nats
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from prometheus_client import Counter

from webhost_kit.bus import streams

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 5.0

_errors = Counter(
    "webhost_bus_errors_total",
    "Errors of the connection to NATS: `denied` is what this service's account does not allow",
    ["kind"],
)
_denied, _other = _errors.labels("denied"), _errors.labels("other")
_reconnects = Counter(
    "webhost_bus_reconnects_total", "How often the connection to NATS was made again"
)


class Bus:
    """One process's connection and its JetStream context."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream(timeout=REQUEST_TIMEOUT_S)

    def check(self) -> str | None:
        """Say what is wrong with the connection."""
        return None if self.client.is_connected else "away: not connected"

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


def is_tls(url: str) -> bool:
    """Say whether a connection begins with TLS, which nobody in between can then prevent."""
    return url.startswith("tls://")


def inbox_prefix(name: str) -> bytes:
    """Return the prefix of a service's inboxes, the only ones on which a stream may push to it."""
    return f"_INBOX.{name}".encode()


async def log_error(error: Exception) -> None:
    """Log what the server refused: the sender itself only sees a timeout."""
    log.error("bus", error=str(error))
    (_denied if "permissions violation" in str(error).lower() else _other).inc()


async def connect(url: str, name: str) -> Bus:
    """Connect and declare the streams, waiting for the server for as long as it takes."""

    async def on_disconnect() -> None:
        log.warning("bus disconnected")

    async def on_reconnect() -> None:
        _reconnects.inc()
        log.info("bus connected again")

    client = await nats.connect(
        url,
        name=name,
        inbox_prefix=inbox_prefix(name),
        tls_handshake_first=is_tls(url),
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
    bus = Bus(client)
    while True:
        try:
            await streams.declare(bus.js)
            return bus
        except (NatsError, TimeoutError) as error:
            log.warning("streams not declared yet", error=str(error))
            await asyncio.sleep(0.5)
