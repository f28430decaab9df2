"""Uploads of bundles.

Guarantees: the archive is read once, bounded, before anything is written; what is refused leaves no
row and no stored object. On replay (the same idempotency key): the first answer again.
"""

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_contracts.errors import ErrorCode
from webhost_kit.errors import InvalidRequest
from webhost_kit.process.crashpoints import crash_point

from webhost_api import idempotency, uploads
from webhost_api.dependencies import CurrentCaller, Deps, RequestKey
from webhost_api.http import UploadRoute, execute, first_response
from webhost_api.keys.access import open_to_limited
from webhost_api.openapi_responses import refusals
from webhost_api.schemas.uploads import UploadResponse

router = APIRouter(tags=["deployments"], route_class=UploadRoute)

TYPES = (
    "application/zip",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
)
_BODY = {
    "required": True,
    "description": "A zip or tar.gz archive with `agent.config.json` at its top.",
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES},
}


@router.post(
    "/v1/uploads",
    status_code=201,
    response_model=UploadResponse,
    openapi_extra={"requestBody": _BODY},
    responses=refusals(ErrorCode.CONFLICT),
)
@open_to_limited
async def upload(deps: Deps, caller: CurrentCaller, key: RequestKey, request: Request) -> Response:
    """Upload a bundle of modules, to be deployed by its id."""
    _require_archive(request.headers.get("Content-Type"))
    async with deps.unpacker.unpacked(caller.user_id, await request.body()) as packed:
        upload_id = await idempotency.id_for(
            deps.database, deps.tiers, key, ids.UPLOAD, caller.metadata.at_ms
        )
        async with deps.database.snapshot() as connection:
            if (response := await first_response(connection, key)) is not None:
                return response
            await uploads.require_room(connection, caller, packed.artifact)
        await deps.artifacts.put(packed.artifact, packed.body)
        crash_point("api.stored")

        async def work(connection: AsyncConnection) -> UploadResponse:
            made = await uploads.record(connection, caller, upload_id, packed)
            return UploadResponse.model_validate(
                {
                    "upload": {
                        "id": made.id,
                        "checksum": made.artifact.checksum,
                        "size_bytes": made.artifact.size_bytes,
                        "manifest": made.manifest,
                        "expires_at_ms": made.expires_at_ms,
                    }
                }
            )

        response = await execute(deps, key, work, status=201)
    crash_point("api.uploaded")
    return response


def _require_archive(content_type: str | None) -> None:
    kind = "application/octet-stream" if content_type is None else content_type
    if kind.partition(";")[0].strip().lower() not in TYPES:
        raise InvalidRequest.at(
            ["Content-Type"], f"Send the archive itself, as one of: {', '.join(TYPES)}."
        )
