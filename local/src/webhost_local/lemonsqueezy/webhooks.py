"""Deliveries: signed, in no order, tried again after each of the delays, then dropped.

Only 200 is success. What waits to be tried again is in memory: when the process ends it is dropped,
too.
"""

import asyncio
import hashlib
import hmac
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

RETRY_S = (5.0, 25.0, 125.0)
TIMEOUT_S = 10.0
REMEMBERED = 100

log = logging.getLogger("webhost.lemonsqueezy")

Post = Callable[[bytes, Mapping[str, str]], Awaitable[int | None]]
"""Posts a body with headers; returns the status, None where there was no answer."""


@dataclass
class Attempted:
    """One delivery, with what each try was answered."""

    number: int
    event_name: str
    subscription_id: int
    body: bytes
    answers: list[int | None] = field(default_factory=list[int | None])
    ended: bool = False

    @property
    def succeeded(self) -> bool:
        return 200 in self.answers


class Webhooks:
    """Sends deliveries in the background."""

    def __init__(self, post: Post, secret: bytes, retry_s: Sequence[float] = RETRY_S) -> None:
        self._post = post
        self._secret = secret
        self._retry_s = tuple(retry_s)
        self._running: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self.attempted: deque[Attempted] = deque(maxlen=REMEMBERED)

    def send(self, event_name: str, subscription_id: int, content: Mapping[str, Any]) -> None:
        """Deliver this, some time."""
        self._numbers += 1
        body = msgspec.json.encode(content)
        self._start(Attempted(self._numbers, event_name, subscription_id, body))

    def send_again(self, number: int) -> bool:
        """Deliver the same body once more, as an operator can ask for; say whether it is known."""
        known = next((each for each in self.attempted if each.number == number), None)
        if known is None:
            return False
        self._numbers += 1
        again = (known.event_name, known.subscription_id, known.body)
        self._start(Attempted(self._numbers, *again))
        return True

    async def idle(self) -> None:
        """Return when nothing is under way or waits to be tried again."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def close(self) -> None:
        """Drop what is under way."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _start(self, delivery: Attempted) -> None:
        self.attempted.appendleft(delivery)
        task = asyncio.create_task(self._deliver(delivery))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _deliver(self, delivery: Attempted) -> None:
        headers = {
            "Content-Type": "application/json",
            "X-Event-Name": delivery.event_name,
            "X-Signature": hmac.new(self._secret, delivery.body, hashlib.sha256).hexdigest(),
        }
        for delay in (*self._retry_s, None):
            status = await self._post(delivery.body, headers)
            delivery.answers.append(status)
            if status == 200 or delay is None:
                break
            log.warning("%s answered %s, again in %g s", delivery.event_name, status, delay)
            await asyncio.sleep(delay)
        delivery.ended = True
        if not delivery.succeeded:
            log.error("%s dropped", delivery.event_name)


def posting_to(url: str, client: httpx.AsyncClient) -> Post:
    """Return what posts to this address."""

    async def post(body: bytes, headers: Mapping[str, str]) -> int | None:
        try:
            answer = await client.post(url, content=body, headers=headers, timeout=TIMEOUT_S)
        except (httpx.HTTPError, OSError):
            return None
        return answer.status_code

    return post
