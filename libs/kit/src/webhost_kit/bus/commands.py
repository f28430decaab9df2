"""The one way in which a service takes commands: FastStream on a durable consumer.

Consumes: `cmd.<service>.<verb>.>` of COMMANDS. Guarantees: a message is acknowledged only after
its handler returned; a Retryable failure is tried again later; a Permanent one, or the last of
MAX_TRIES, is told to `on_dead`; then the message is parked among the dead letters, and ended.
On replay: a handler that has done its work before must find that, and change nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError
from webhost_contracts import subjects, wire
from webhost_contracts.commands import Command

from webhost_kit.bus.connection import Bus, inbox_prefix, log_error
from webhost_kit.errors import Permanent, Retryable, Unavailable

log = structlog.get_logger(__name__)

MAX_TRIES = 8
ACK_WAIT_S = 10.0
"""Handlers only record what is to be done. A command whose handler was killed waits for so long."""

LOOK_S = 2.0

C = TypeVar("C", bound=Command)
Handler = Callable[[C], Awaitable[None]]
OnDead = Callable[[C, str], Awaitable[None]]


def broker(url: str, name: str) -> NatsBroker:
    """Return a FastStream broker that reconnects for ever."""
    return NatsBroker(
        url,
        name=name,
        inbox_prefix=inbox_prefix(name),
        error_cb=log_error,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        connect_timeout=2,
        logger=None,
    )


class Subscribers:
    """The broker as a part of a service: started when all is registered, stopped at the end."""

    def __init__(self, url: str, name: str) -> None:
        self.broker = broker(url, name)

    async def start(self) -> None:
        """Begin to take messages."""
        await self.broker.start()

    async def close(self) -> None:
        """Stop taking messages; handlers that run finish first."""
        await self.broker.stop()


def subscribe(
    nats_broker: NatsBroker,
    bus: Bus,
    service: str,
    verb: str,
    kind: type[C],
    handler: Handler[C],
    on_dead: OnDead[C],
) -> str:
    """Let `handler` take this service's commands of one verb; return the consumer's name."""
    subject = subjects.commands_to(service, verb)
    durable = f"{service}-{verb}"

    @nats_broker.subscriber(
        subject,
        stream=JStream(subjects.COMMANDS, declare=False),
        durable=durable,
        config=ConsumerConfig(
            ack_wait=ACK_WAIT_S, max_deliver=-1, filter_subject=subject, max_ack_pending=256
        ),
        pull_sub=PullSub(batch_size=10, timeout=5.0),
        inbox_prefix=inbox_prefix(service) + b".",
        ack_policy=AckPolicy.MANUAL,
        title=f"{service}:{verb}",
        description=kind.__doc__,
        decoder=_undecoded,
    )
    async def _on_message(body: bytes, message: NatsMessage) -> None:  # pyright: ignore[reportUnusedFunction]
        await _handle(bus, message, body, kind, handler, on_dead)

    return durable


async def watch_consumers(bus: Bus, consumers: list[str]) -> None:
    """Raise once a consumer is gone: its pull loop would spin, a restart makes it again."""
    while True:
        await asyncio.sleep(LOOK_S)
        for consumer in consumers:
            try:
                await bus.js.consumer_info(subjects.COMMANDS, consumer)
            except NotFoundError as error:
                raise RuntimeError(f"consumer {consumer} was deleted; restarting") from error
            except Exception as error:
                log.warning("consumer not seen", consumer=consumer, error=repr(error))


async def _undecoded(message: NatsMessage) -> bytes:
    return message.body


async def _handle(
    bus: Bus,
    message: NatsMessage,
    body: bytes,
    kind: type[C],
    handler: Handler[C],
    on_dead: OnDead[C],
) -> None:
    tries = message.raw_message.metadata.num_delivered or 1
    try:
        command = wire.decode(body, kind)
    except msgspec.DecodeError as error:
        await _park(bus, message, body, f"undecodable: {error}")
        return
    with structlog.contextvars.bound_contextvars(
        command=command.command_id, request_id=command.request_id
    ):
        try:
            await handler(command)
        except Permanent as error:
            await _bury(bus, message, body, command, on_dead, str(error))
        except (Retryable, Unavailable) as error:
            # A dependency that is away never makes a message poison.
            delay_s = error.delay_s if isinstance(error, Retryable) else 1.0
            log.warning("command is tried again", error=str(error), tries=tries)
            await message.nack(delay=delay_s)
        except Exception as error:
            log.exception("command failed", tries=tries)
            if tries >= MAX_TRIES:
                await _bury(bus, message, body, command, on_dead, repr(error))
            else:
                await message.nack(delay=min(2.0**tries * 0.1, 30.0))
        else:
            await message.ack()


async def _bury(
    bus: Bus, message: NatsMessage, body: bytes, command: C, on_dead: OnDead[C], reason: str
) -> None:
    try:
        await on_dead(command, reason)
    except Exception:
        log.exception("dead letter not told of; trying again")
        await message.nack(delay=5.0)
        return
    await _park(bus, message, body, reason)


async def _park(bus: Bus, message: NatsMessage, body: bytes, reason: str) -> None:
    subject = message.raw_message.subject
    log.error("dead letter", subject=subject, reason=reason)
    headers: dict[str, Any] = dict(message.headers)
    headers[subjects.DEAD_REASON_HEADER] = " ".join(reason.split())[:500]
    headers[subjects.DEAD_SUBJECT_HEADER] = subject
    await bus.js.publish(subjects.dead_letter(subject), body, headers=headers)
    await message.reject()
