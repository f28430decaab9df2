"""Request and reply between services, with a short timeout; FastStream on the replying side.

Consumes and emits: `rpc.<service>.<what>` and its reply; nothing of it is stored.
Guarantees: a reply in time, or Unavailable; of several replicas, one replies. Behind Unavailable
the request may have been carried out, and is not later, see `webhost_contracts.deadlines`.
On a repeat: the handler runs again, so one that changes something must be idempotent.
"""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

import msgspec
import structlog
from faststream import BaseMiddleware
from nats.errors import Error as NatsError
from prometheus_client import Histogram
from webhost_contracts import deadlines, wire
from webhost_contracts.subjects import EVENTS, TRACE_HEADER
from webhost_contracts.wire import Wire

from webhost_kit import deadline
from webhost_kit.bus.broker import broker
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.contact import Contact
from webhost_kit.clock import now_ms
from webhost_kit.errors import Unavailable
from webhost_kit.process import tracing
from webhost_kit.process.metrics import MOMENT_S

log = structlog.get_logger(__name__)

TIMEOUT_S = 2.5
_RPC = {"rpc.system": "nats"}

_duration = Histogram(
    "webhost_rpc_request_duration_seconds",
    "Seconds until another service replied to a request on the bus, or it was given up as "
    "unavailable",
    ["request", "outcome"],
    buckets=MOMENT_S,
)

A = TypeVar("A", bound=Wire)


async def call(
    bus: Bus, subject: str, request: Wire, kind: type[A], *, timeout_s: float = TIMEOUT_S
) -> A:
    """Return the other side's reply. Raises Unavailable when none comes in time."""
    began_s, outcome = monotonic(), "unavailable"
    with tracing.span(subject, "client", attributes=_RPC):
        headers = deadlines.headers(now_ms(), timeout_s)
        if (traceparent := tracing.traceparent()) is not None:
            headers[TRACE_HEADER] = traceparent
        try:
            reply = await bus.client.request(
                subject, wire.encode(request), timeout=timeout_s, headers=headers
            )
            answer = wire.decode(reply.data, kind)
            outcome = "replied"
            return answer
        except (NatsError, TimeoutError, OSError, msgspec.DecodeError) as error:
            raise Unavailable("A part of the system is unavailable; try again shortly.") from error
        finally:
            _duration.labels(subject, outcome).observe(monotonic() - began_s)


class RequestServer:
    """Replies to requests. Started when all handlers are registered, stopped at the end."""

    def __init__(self, url: str, name: str) -> None:
        self.broker = broker(url, name, _LogFailure)
        self._contact: Contact | None = None

    def serve(
        self, subject: str, handler: Callable[..., Awaitable[Wire]], *, at_once: int = 1
    ) -> None:
        """Let `handler` reply to the requests on this subject, so many at once in this process;
        replicas share the work.
        """
        self.broker.subscriber(subject, queue=subject, title=subject, max_workers=at_once)(handler)

    def serve_raw(self, subject: str, handler: Callable[..., Awaitable[None]]) -> None:
        """Let `handler` receive the raw requests on this subject and send its own replies."""
        self.broker.subscriber(subject, queue=subject, title=subject, no_reply=True)(handler)

    async def start(self) -> None:
        """Begin to take requests."""
        self._contact = Contact(await self.broker.connect())
        await self.broker.start()

    def check(self) -> str | None:
        """Say that no requests come, since the server is cut off from the others."""
        return None if self._contact is None else self._contact.check()

    async def run(self) -> None:
        """Leave a server that is cut off from the others."""
        if self._contact is not None:
            await self._contact.keep(EVENTS)

    async def close(self) -> None:
        """Stop taking requests; handlers that run finish first."""
        await self.broker.stop()


class _LogFailure(BaseMiddleware):
    """A request that failed gets no reply; its sender continues after a timeout."""

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        raw = msg.raw_message
        headers: dict[str, str] = raw.headers or {}
        given = headers.get(TRACE_HEADER)
        try:
            with (
                tracing.span(raw.subject, "server", traceparent=given, attributes=_RPC),
                deadline.of_request(headers),
            ):
                return await call_next(msg)
        except Unavailable as error:
            log.warning("request not answered", subject=msg.raw_message.subject, error=str(error))
            raise
        except Exception:
            log.exception("request failed", subject=msg.raw_message.subject)
            raise
