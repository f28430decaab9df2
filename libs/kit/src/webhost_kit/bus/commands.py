"""The one way in which a service takes commands: FastStream on durable consumers.

Consumes: `cmd.<service>.<verb>.*` of COMMANDS.
Guarantees: a message is acknowledged only after its handler returned. A failure because a
dependency is away is retried indefinitely, and uses up no tries. A Permanent failure, an unreadable
message, or the last of MAX_TRIES of any other failure is reported to `on_dead`, with the ids in the
message's headers; then the message becomes a dead letter.
On replay: a handler must recognise that its work is already done, and change nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import structlog
from fast_depends.exceptions import ValidationError
from faststream import AckPolicy, BaseMiddleware
from faststream.exceptions import NackMessage, RejectMessage
from faststream.nats import JStream, NatsMessage, PullSub
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError
from prometheus_client import Counter, Gauge
from webhost_contracts import subjects
from webhost_contracts.commands import Command, CommandIds

from webhost_kit.bus.broker import broker
from webhost_kit.bus.connection import Bus, inbox_prefix
from webhost_kit.bus.contact import Contact
from webhost_kit.database.away import is_away
from webhost_kit.errors import Permanent, Unavailable
from webhost_kit.process import tracing
from webhost_kit.tasks import run_together

log = structlog.get_logger(__name__)

MAX_TRIES = 8
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
AWAY_DELAY_S = 1.0
DEAD_DELAY_S = 5.0
ACK_WAIT_S = 10.0
"""Handlers only record what is to be done. A command whose handler was killed waits this long."""
PULL_TIMEOUT_S = 5.0
COUNTED = 1_000
"""How many messages have their failures counted; the server's own count includes outages."""

POLL_INTERVAL_S = 2.0

_commands = Counter(
    "webhost_commands_total",
    "Tries of commands: `handled`, `waits` (a dependency is away), `failed` (tried again), or "
    "`dead` (a dead letter)",
    ["command", "outcome"],
)
_waiting = Gauge(
    "webhost_commands_waiting",
    "Commands that are not handled yet, by the server's count",
    ["command"],
)

C = TypeVar("C", bound=Command)
Handler = Callable[[C], Awaitable[None]]
OnDead = Callable[[CommandIds], Awaitable[None]]


class CommandConsumer:
    """Takes one service's commands. Started when all handlers are registered."""

    def __init__(self, url: str, bus: Bus, service: str) -> None:
        self._bus = bus
        self._service = service
        self._on_dead: dict[str, OnDead] = {}
        self._consumers: dict[str, str] = {}
        self._failures: dict[int, int] = {}
        self._refused: str | None = None
        self.broker = broker(url, service, self._middleware)
        self._contact: Contact | None = None

    def subscribe(self, verb: str, handler: Handler[C], on_dead: OnDead | None = None) -> None:
        """Let `handler` handle the commands of one verb; its annotation names their type."""
        subject = subjects.commands_to(self._service, verb)
        durable = f"{self._service}-{verb}"
        self._consumers[durable] = verb
        if on_dead is not None:
            self._on_dead[verb] = on_dead
        self.broker.subscriber(
            subject,
            stream=JStream(subjects.COMMANDS, declare=False),
            durable=durable,
            config=ConsumerConfig(
                ack_wait=ACK_WAIT_S, max_deliver=-1, filter_subject=subject, max_ack_pending=256
            ),
            # With more, the client waits for more while commands of other verbs keep coming.
            pull_sub=PullSub(batch_size=1, timeout=PULL_TIMEOUT_S),
            inbox_prefix=inbox_prefix(self._service) + b".",
            ack_policy=AckPolicy.NACK_ON_ERROR,
            title=f"{self._service}:{verb}",
        )(handler)

    def check(self) -> str | None:
        """Say why none come, or why dead letters cannot be stored: each keeps a place that others
        need.
        """
        cut_off = None if self._contact is None else self._contact.check()
        return cut_off or self._refused

    async def start(self) -> None:
        """Begin to take messages."""
        self._contact = Contact(await self.broker.connect())
        await self.broker.start()

    async def close(self) -> None:
        """Stop taking messages; handlers that run finish first."""
        await self.broker.stop()

    async def run(self) -> None:
        """Raise once a consumer is gone: its pull loop would spin, and a restart recreates it.

        Leave a server that is cut off from the others.
        """
        contact = self._contact
        await run_together(
            self._watch_consumers(),
            *(() if contact is None else (contact.keep(subjects.COMMANDS),)),
        )

    async def _watch_consumers(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            for consumer, verb in self._consumers.items():
                try:
                    info = await self._bus.js.consumer_info(subjects.COMMANDS, consumer)
                    waiting = (info.num_pending or 0) + (info.num_ack_pending or 0)
                    _waiting.labels(verb).set(waiting)
                except NotFoundError as error:
                    raise RuntimeError(f"consumer {consumer} was deleted; restarting") from error
                except Exception as error:
                    log.warning("consumer not seen", consumer=consumer, error=repr(error))

    async def handled(self, message: NatsMessage) -> None:
        """Note that the message's handler returned."""
        self._failures.pop(_sequence(message), None)
        _commands.labels(_verb(message), "handled").inc()

    async def failed(self, message: NatsMessage, ids: CommandIds, error: Exception) -> NoReturn:
        """Decide what follows from a failure; raises the exception that tells FastStream."""
        match error:
            case ValidationError():
                await self._give_up(message, ids, f"undecodable: {error.__cause__ or error}")
            case Permanent():
                await self._give_up(message, ids, str(error))
            case _ if isinstance(error, Unavailable) or is_away(error):
                log.warning("command waits", error=str(error))
                _commands.labels(_verb(message), "waits").inc()
                raise NackMessage(delay=AWAY_DELAY_S)
            case _:
                tries = self._count(message)
                log.error("command failed", tries=tries, exc_info=error)
                if tries >= MAX_TRIES:
                    await self._give_up(message, ids, repr(error))
                _commands.labels(_verb(message), "failed").inc()
                raise NackMessage(delay=min(FIRST_DELAY_S * 2.0 ** (tries - 1), LONGEST_DELAY_S))

    def _middleware(self, msg: Any, /, *, context: Any) -> BaseMiddleware:
        return _Handling(self, msg, context)

    def _count(self, message: NatsMessage) -> int:
        tries = self._failures.pop(_sequence(message), 0) + 1
        self._failures[_sequence(message)] = tries
        if len(self._failures) > COUNTED:
            del self._failures[next(iter(self._failures))]
        return tries

    async def _give_up(self, message: NatsMessage, ids: CommandIds, reason: str) -> NoReturn:
        subject = message.raw_message.subject
        log.error("dead letter", subject=subject, reason=reason)
        headers: dict[str, Any] = dict(message.headers)
        headers[subjects.DEAD_REASON_HEADER] = " ".join(reason.split())[:500]
        try:
            on_dead = self._on_dead.get(_verb(message))
            if on_dead is not None:
                await on_dead(ids)
            await self._bus.js.publish(subjects.dead_letter(subject), message.body, headers=headers)
        except Exception as error:
            log.exception("no dead letter yet; trying again")
            self._refused = f"a dead letter was refused: {error}"
            raise NackMessage(delay=DEAD_DELAY_S) from error
        self._refused = None
        self._failures.pop(_sequence(message), None)
        _commands.labels(_verb(message), "dead").inc()
        raise RejectMessage


class _Handling(BaseMiddleware):
    """Around every handler: log context, and what follows from a failure."""

    def __init__(self, consumer: CommandConsumer, msg: Any, context: Any) -> None:
        super().__init__(msg, context=context)
        self._consumer = consumer

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        ids = CommandIds.of(msg.headers)
        with (
            _span_of(msg, ids),
            structlog.contextvars.bound_contextvars(
                command=ids.command_id, request_id=ids.request_id
            ),
        ):
            try:
                result = await call_next(msg)
            except Exception as error:
                await self._consumer.failed(msg, ids, error)
            await self._consumer.handled(msg)
            return result


def _verb(message: NatsMessage) -> str:
    return message.raw_message.subject.split(".")[2]


def _span_of(message: NatsMessage, ids: CommandIds) -> tracing.Span:
    attributes = {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": subjects.COMMANDS,
    }
    if ids.command_id is not None:
        attributes["messaging.message.id"] = ids.command_id
    return tracing.span(
        f"process {message.headers.get(subjects.TYPE_HEADER, 'command')}",
        "consumer",
        traceparent=message.headers.get(subjects.TRACE_HEADER),
        attributes=attributes,
    )


def _sequence(message: NatsMessage) -> int:
    return message.raw_message.metadata.sequence.stream
