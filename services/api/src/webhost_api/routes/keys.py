"""API keys. The key itself is in two answers, those that make a secret, and nowhere else.

With an idempotency key such an answer is recorded encrypted, under a key of the api's own, for as
long as answers are kept. A secret that follows from a key of the api's and the id could be made
again without that, but then whoever has the api's key has every API key for ever.
"""

import secrets
from typing import Any

import msgspec
from fastapi import APIRouter, Response
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_contracts.api_keys import SECRET_BYTES, hash_of, token_of
from webhost_contracts.errors import ErrorCode

from webhost_api import queries
from webhost_api.dependencies import CurrentCaller, Cursor, Deps, KeyId, Limit, RequestKey
from webhost_api.http import UserRoute, answered, execute
from webhost_api.idempotency import id_for
from webhost_api.keys import handlers, store
from webhost_api.keys.access import require_jwt
from webhost_api.keys.decisions import CreateKey
from webhost_api.keys.model import ApiKey
from webhost_api.openapi_responses import refusals
from webhost_api.schemas.keys import IssuedKeyResponse, KeysResponse
from webhost_api.schemas.requests import CreateKeyBody, RotateKeyBody

DEFAULT_OVERLAP_S = 24 * 3600

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=UserRoute)


@router.get("", response_model=KeysResponse)
async def list_keys(
    deps: Deps, caller: CurrentCaller, limit: Limit = queries.DEFAULT_LIMIT, cursor: Cursor = None
) -> Response:
    """The caller's API keys, newest first; revoked ones are not listed."""
    page = queries.Page.requested(limit, cursor)
    async with deps.database.transaction() as connection:
        keys, following = await store.list_keys(connection, caller.user_id, page)
    return answered(KeysResponse.model_validate({"keys": keys, "next_cursor": following}))


@router.post(
    "",
    status_code=201,
    response_model=IssuedKeyResponse,
    responses=refusals(ErrorCode.CONFLICT, ErrorCode.LIMIT_EXCEEDED, ErrorCode.NOT_FOUND),
)
async def create_key(
    deps: Deps, caller: CurrentCaller, request_key: RequestKey, body: CreateKeyBody
) -> Response:
    """Make an API key. Its token is in this answer only. With a JWT only."""
    require_jwt(caller)
    secret = secrets.token_bytes(SECRET_BYTES)
    fields = {**body.model_dump(), "secret_hash": hash_of(secret)}
    command = msgspec.convert(fields, CreateKey)
    at_ms = caller.metadata.at_ms
    key_id = await id_for(deps.database, deps.tiers, request_key, ids.KEY, at_ms)

    async def work(connection: AsyncConnection) -> IssuedKeyResponse:
        key = await handlers.create_key(connection, caller, deps.tiers, key_id, command)
        return _issued(key, secret)

    return await execute(deps, request_key, work, status=201)


@router.delete("/{keyId}", status_code=204, response_class=Response)
async def revoke_key(deps: Deps, caller: CurrentCaller, key_id: KeyId) -> Response:
    """Revoke an API key, for good. With a JWT only."""
    require_jwt(caller)

    async def work(connection: AsyncConnection) -> None:
        await handlers.revoke_key(connection, caller, key_id)

    await deps.database.retry_conflicts(work)
    return Response(status_code=204)


@router.post(
    "/{keyId}/rotate",
    response_model=IssuedKeyResponse,
    responses=refusals(ErrorCode.CONFLICT),
)
async def rotate_key(
    deps: Deps,
    caller: CurrentCaller,
    request_key: RequestKey,
    key_id: KeyId,
    body: RotateKeyBody | None = None,
) -> Response:
    """Give an API key a new secret; the one of until now is accepted for `overlapSeconds` more, the
    one before it no longer. The new token is in this answer only. With a JWT only.
    """
    require_jwt(caller)
    secret = secrets.token_bytes(SECRET_BYTES)
    given = None if body is None else body.overlap_seconds
    overlap_ms = (DEFAULT_OVERLAP_S if given is None else given) * 1000

    async def work(connection: AsyncConnection) -> IssuedKeyResponse:
        key = await handlers.rotate_key(
            connection,
            caller,
            deps.tiers,
            key_id,
            secret_hash=hash_of(secret),
            overlap_ms=overlap_ms,
        )
        return _issued(key, secret)

    return await execute(deps, request_key, work)


def _issued(key: ApiKey, secret: bytes) -> IssuedKeyResponse:
    answer: dict[str, Any] = {"key": key, "token": token_of(key.id, secret)}
    return IssuedKeyResponse.model_validate(answer)
