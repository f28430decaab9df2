"""Messages of a consumer, asked for as they are taken.

Guarantees: at most one request under way; fewer than two requests' messages are buffered. While the
server has nothing it sends heartbeats: who hears neither for SILENCE_S gives the consumer up.
"""

import asyncio
from collections import deque
from contextlib import suppress
from time import monotonic

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from webhost_kit.bus.connection import Bus

HEARTBEAT_S = 1.0
SILENCE_S = 3.5
"""After this long without a message or a heartbeat the consumer counts as lost."""
EXPIRES_S = 30.0
BATCH_BYTES = 1024 * 1024
"""A batch has no more bytes than this, or a single message: a packet of facts may be large, and
what folds a batch holds up everything else in its process, and its transaction."""
REQUEST_BYTES = 4 * BATCH_BYTES
"""The same for one request to the server, so that little is buffered here."""


class Pull:
    """The requests of one reader.

    Each has an inbox of its own: the server remembers where to send an answer for as long as
    somebody listens there.
    """

    def __init__(self, bus: Bus, stream: str, consumer: str, batch_size: int) -> None:
        self._client = bus.client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._request = msgspec.json.encode(
            {
                "batch": batch_size,
                "max_bytes": max(REQUEST_BYTES, bus.client.max_payload),
                "expires": int(EXPIRES_S * 1e9),
                "idle_heartbeat": int(HEARTBEAT_S * 1e9),
            }
        )
        self._batch_size = batch_size
        self._left = 0
        self._asked = 0
        self._subscription: Subscription | None = None
        self._arrived: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._failure: str | None = None
        self.heard_at = monotonic()

    async def start(self) -> None:
        """Ask for the first messages."""
        await self._ask()

    async def stop(self) -> None:
        """Listen no longer."""
        # Also while the client reconnects: it would subscribe again.
        if self._subscription is not None and not self._client.is_closed:
            with suppress(NatsError):
                await self._subscription.unsubscribe()

    async def next(self, most: int) -> list[Msg]:
        """Return what has arrived, at most this many; empty after a heartbeat. Raises NatsError."""
        if not self._arrived:
            self._wake.clear()
            async with asyncio.timeout(SILENCE_S):
                await self._wake.wait()
        if self._failure is not None:
            raise NatsError(self._failure)
        taken: list[Msg] = []
        size = 0
        while self._arrived and len(taken) < most:
            size += len(self._arrived[0].data)
            if taken and size > BATCH_BYTES:
                break
            taken.append(self._arrived.popleft())
        # Only now: requested on arrival, messages would pile up in front of a slower fold.
        if self._left == 0 and len(self._arrived) < self._batch_size:
            await self._ask()
        return taken

    async def _ask(self) -> None:
        self._left = self._batch_size
        self._asked += 1
        number = self._asked

        async def on_message(message: Msg) -> None:
            self._on_message(message, number)

        inbox = self._client.new_inbox()
        before = self._subscription
        self._subscription = await self._client.subscribe(inbox, cb=on_message)
        await self._client.publish(self._subject, self._request, reply=inbox)
        if before is not None:
            await before.unsubscribe()

    def _on_message(self, message: Msg, request: int) -> None:
        heard_at = monotonic()
        if heard_at - self.heard_at > SILENCE_S:
            # This process itself may have stood still: how much is waiting has to be seen anew.
            self._failure = "silent for too long"
        self.heard_at = heard_at
        status = message.headers.get("Status") if message.headers and not message.data else None
        if status is None:
            self._arrived.append(message)
            self._left -= 1
        elif status in ("404", "408") or _is_done(message):
            # The end of an earlier request, which was over anyhow, may come behind the next one.
            if request == self._asked:
                self._left = 0
        elif status != "100":
            self._failure = f"consumer: {status} {(message.headers or {}).get('Description', '')}"
        self._wake.set()


def _is_done(message: Msg) -> bool:
    """Say whether a request is over, because it has no room for the next message or had them all.

    The server says the second only of requests with a bound in bytes.
    """
    headers = message.headers or {}
    said = headers.get("Description", "")
    return headers.get("Status") == "409" and ("MaxBytes" in said or said == "Batch Completed")
