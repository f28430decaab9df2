"""What all routes share: authentication, rate limits, bounded bodies, idempotency.

Guarantees: the caller is known and within its rate limits, and the body bounded, before anything is
parsed; few changes of one user are made at a time, see `turns`; a decision and its recorded answer
are one transaction. Failures are raised, see `failures`.
On replay (the same idempotency key): the first answer again, see `idempotency`.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.types import Message, Receive
from webhost_contracts import api_keys
from webhost_contracts.api_keys import KeyScope
from webhost_contracts.operator_tokens import OperatorTokens
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Transactions
from webhost_kit.database.row_security import answering
from webhost_kit.errors import PayloadTooLarge
from webhost_kit.eventsourcing.store import EventMetadata
from webhost_kit.http import problems
from webhost_kit.http.addresses import address_of
from webhost_kit.http.auth import TokenVerifier
from webhost_kit.http.bodies import Bodies
from webhost_kit.process.tracing import Span
from webhost_kit.response_keys import ResponseKeys

from webhost_api.archives.entries import MAX_PACKED_BYTES
from webhost_api.artifacts import Artifacts
from webhost_api.commands import Commands
from webhost_api.feed import Feed
from webhost_api.handlers import (
    Caller,
    Tiers,
    require_enabled,
)
from webhost_api.idempotency import Answer, IdempotencyKey, once, recorded
from webhost_api.keys import access
from webhost_api.keys.access import Keys
from webhost_api.rate_limits import Cost, RateLimits
from webhost_api.secrets import Secrets
from webhost_api.turns import Turns
from webhost_api.uploads import Unpacker
from webhost_api.users import Users

MAX_BODY_BYTES = 64 * 1024
MAX_DEPLOY_BYTES = 1024 * 1024
READING = ("GET", "HEAD")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Dependencies:
    """What the routes work with."""

    database: Transactions
    bus: Bus
    verifier: TokenVerifier
    users: Users
    keys: Keys
    rate_limits: RateLimits
    changes: Turns
    reads: Turns
    artifacts: Artifacts
    tiers: Tiers
    commands: Commands
    bodies: Bodies
    archives: Bodies
    unpacker: Unpacker
    sources: Bodies
    feed: Feed
    secrets: Secrets
    response_keys: ResponseKeys
    operators: OperatorTokens


class UserRoute(APIRoute):
    """A route for users: the caller is known and the body bounded before anything is parsed."""

    max_body_bytes = MAX_BODY_BYTES
    cost_of_writing: Cost = "writes"
    scope_of_reading: KeyScope = "read"
    scope_of_writing: KeyScope = "admin"
    """What an API key needs to have."""

    def get_route_handler(self) -> Handler:
        """Return the handler with the checks before it."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            reading = request.method in READING
            cost = "reads" if reading else self.cost_of_writing
            caller = request.state.caller = await _authenticated(request, cost)
            scope = self.scope_of_reading if reading else self.scope_of_writing
            database = deps_of(request).database
            with answering(caller.user_id):
                await access.require(database, caller, scope, self.endpoint, request.path_params)
                return await self._handled(request, handle)

        return checked

    async def _handled(self, request: Request, handle: Handler) -> Response:
        async with _room(request, deps_of(request).bodies, self.max_body_bytes):
            body = await _bounded_body(request, self.max_body_bytes)
        return await _in_turn(request, handle, body)


class DeployRoute(UserRoute):
    """A route whose body carries code."""

    max_body_bytes = MAX_DEPLOY_BYTES
    cost_of_writing = "deploys"
    scope_of_writing = "deploy"


class PointerRoute(UserRoute):
    """A route that changes which deployment is called."""

    scope_of_writing = "deploy"


class UploadRoute(UserRoute):
    """A route whose body is an archive: it has room of its own, until the request is answered, and
    nothing of it is read for a disabled account.
    """

    max_body_bytes = MAX_PACKED_BYTES
    cost_of_writing = "deploys"
    scope_of_writing = "deploy"

    async def _handled(self, request: Request, handle: Handler) -> Response:
        async with deps_of(request).database.transaction() as connection:
            await require_enabled(connection, caller_of(request).user_id)
        async with _room(request, deps_of(request).archives, self.max_body_bytes):
            body = await _bounded_body(request, self.max_body_bytes)
            return await _in_turn(request, handle, body)


class SignedRoute(APIRoute):
    """A route without a user: whoever sends signs the body, which is bounded before it is read."""

    def get_route_handler(self) -> Handler:
        """Return the handler with the check before it."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            body = await _bounded_body(request, MAX_BODY_BYTES)
            return await handle(Request(request.scope, _receiving(body)))

        return bounded


class SecretsRoute(UserRoute):
    """A route whose body may carry values of secrets; a change of them costs what a deploy does."""

    cost_of_writing = "deploys"
    scope_of_reading = "secrets"
    scope_of_writing = "secrets"


def deps_of(request: Request) -> Dependencies:
    """Return what the routes work with."""
    return cast(Dependencies, request.app.state.dependencies)


def caller_known(request: Request) -> None:
    """Say that it is known who calls: from here on the request may be recorded in a trace."""
    cast(Span, request.state.span).accept()


def caller_of(request: Request) -> Caller:
    """Return the caller that the route authenticated."""
    return cast(Caller, request.state.caller)


async def execute(
    deps: Dependencies,
    key: IdempotencyKey | None,
    work: Callable[[AsyncConnection], Awaitable[BaseModel | None]],
    *,
    status: int = 200,
) -> Response:
    """Do the work in one transaction, once per key, and return its response; None has no body.

    The work must call nothing but the database. Its exceptions are passed on.
    """

    async def attempt(connection: AsyncConnection) -> Answer:
        async def answer() -> Answer:
            result = await work(connection)
            return Answer(status, b"" if result is None else as_json(result))

        return await answer() if key is None else await once(connection, deps.tiers, key, answer)

    return _response(await deps.database.retry_conflicts(attempt))


async def first_response(
    connection: AsyncConnection, key: IdempotencyKey | None
) -> Response | None:
    """Return the response to the first request with this key, None where there is none yet.

    For what `execute` cannot hold in its transaction, and a repeat must not do again. Raises
    Conflict.
    """
    answer = None if key is None else await recorded(connection, key)
    return None if answer is None else _response(answer)


def _response(answer: Answer) -> Response:
    media_type = problems.JSON_TYPE if answer.body else None
    return Response(answer.body, answer.status, media_type=media_type)


def answered(schema: BaseModel) -> Response:
    """Return the answer of a read."""
    return Response(as_json(schema), media_type=problems.JSON_TYPE)


def as_json(schema: BaseModel) -> bytes:
    """Return an answer's body."""
    return schema.model_dump_json(by_alias=True).encode()


async def _authenticated(request: Request, cost: Cost) -> Caller:
    deps = cast(Dependencies, request.app.state.dependencies)
    authorization = request.headers.get("Authorization")
    address = address_of(request.scope)
    found = await deps.keys.find(authorization, address)
    if found is not None:
        key, presented = found
        caller_known(request)
        deps.rate_limits.acquire(cost, key.user_id)
        metadata = _metadata(request, f"key:{key.id}")
        good_until_ms = api_keys.good_until_ms(key, presented)
        return Caller(key.user_id, metadata, key, presented, good_until_ms)
    principal = await deps.verifier.verify(authorization)
    caller_known(request)
    deps.rate_limits.acquire(cost, principal.user_id)
    metadata = _metadata(request, f"user:{principal.user_id}")
    await deps.users.ensure(principal, metadata, address)
    return Caller(principal.user_id, metadata, good_until_ms=principal.expires_at * 1000)


def _metadata(request: Request, actor: str) -> EventMetadata:
    return EventMetadata(
        actor=actor,
        request_id=request.headers[problems.REQUEST_ID_HEADER],
    )


async def _in_turn(request: Request, handle: Handler, body: bytes) -> Response:
    whole = Request(request.scope, _receiving(body))
    found = deps_of(request)
    turns = found.reads if request.method in READING else found.changes
    async with turns.turn(caller_of(request).user_id):
        return await handle(whole)


def _room(request: Request, bodies: Bodies, limit: int) -> AbstractAsyncContextManager[None]:
    size = request.headers.get("Content-Length", "")
    if not size.isdecimal():
        size = limit if "Transfer-Encoding" in request.headers else 0
    return bodies.reserve(request.state.caller.user_id, min(int(size), limit))


async def _bounded_body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("Content-Length", "")
    body = bytearray()
    if not declared.isdecimal() or int(declared) <= limit:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
        else:
            return bytes(body)
    raise PayloadTooLarge(f"The body is over {limit} bytes.")


def _receiving(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
