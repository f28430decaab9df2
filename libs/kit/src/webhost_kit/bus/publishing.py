"""Publishes to one stream, one message or many: either all are durable, or all are in doubt.

Emits: what it is given. Several at once are for USAGE, which accepts atomic batches and whose
facts are deduplicated by what they are about when folded; elsewhere, one at a time.
Guarantees: `publish_together` returns only after the stream holds every message.
On a failure: none, some or all may be stored; the sender publishes them again.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from nats.errors import Error as NatsError
from webhost_contracts.subjects import MESSAGE_ID_HEADER

from webhost_kit.bus.connection import Bus

FEW = 8
"""Up to this many are faster published one by one: an atomic batch has a fixed cost."""
MOST = 1_000
"""Messages of one atomic batch, at most; the server's limit."""
TIMEOUT_S = 4.0


@dataclass(frozen=True, slots=True)
class Message:
    """What is published."""

    subject: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    message_id: str | None = None


async def publish(bus: Bus, message: Message) -> None:
    """Return when the message is stored. Raises NatsError, TimeoutError or OSError in doubt."""
    if not bus.client.is_connected:
        # What is published now would be kept, and sent beside its repetition.
        raise NatsError("not connected")
    headers = dict(message.headers)
    if message.message_id is not None:
        headers[MESSAGE_ID_HEADER] = message.message_id
    await bus.js.publish(message.subject, message.body, timeout=TIMEOUT_S, headers=headers)


async def publish_together(bus: Bus, messages: Sequence[Message]) -> None:
    """Return when all are stored. Raises NatsError, TimeoutError or OSError in any doubt."""
    if not bus.client.is_connected:
        # What is published now would be kept, and sent beside its repetition.
        raise NatsError("not connected")
    async with asyncio.timeout(TIMEOUT_S):
        if len(messages) <= FEW:
            await asyncio.gather(*(publish(bus, message) for message in messages))
            return
        for start in range(0, len(messages), MOST):
            await _publish_atomically(bus, messages[start : start + MOST])


class _Acknowledged(msgspec.Struct):
    """The server's answer to a commit."""

    count: int | None = None


async def _publish_atomically(bus: Bus, messages: Sequence[Message]) -> None:
    batch_id = secrets.token_hex(16)
    # No message ids: one that the server has seen before would refuse the whole batch.
    for number, message in enumerate(messages[:-1], start=1):
        headers = _headers(message, batch_id, number)
        await bus.client.publish(message.subject, message.body, headers=headers)
    last = messages[-1]
    headers = _headers(last, batch_id, len(messages)) | {"Nats-Batch-Commit": "1"}
    reply = await bus.client.request(last.subject, last.body, timeout=TIMEOUT_S, headers=headers)
    try:
        stored = msgspec.json.decode(reply.data, type=_Acknowledged).count
    except msgspec.DecodeError as error:
        raise NatsError("unreadable answer to a batch") from error
    if stored != len(messages):
        raise NatsError(f"batch refused: {reply.data[:300]!r}")


def _headers(message: Message, batch_id: str, number: int) -> dict[str, str]:
    return {
        **message.headers,
        "Nats-Batch-Id": batch_id,
        "Nats-Batch-Sequence": str(number),
    }
