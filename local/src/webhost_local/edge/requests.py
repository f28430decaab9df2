"""Reading the API's request bodies: JSON of a given type, and an upload's parts."""

from typing import TypeVar

import msgspec
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from webhost_local.edge import upload
from webhost_local.edge.errors import bad_request, script_refused, script_too_large

MAX_FILES = 1000
MAX_METADATA_BYTES = 4 * 1024 * 1024

Body = TypeVar("Body")


async def read_json(request: Request, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except msgspec.DecodeError as error:
        raise bad_request(f"Invalid request body: {error}") from None


async def read_upload(request: Request) -> tuple[str | bytes, list[upload.Part]]:
    too_large = script_too_large("Your Worker exceeded the size limit of 64 MiB.")
    limit = upload.MAX_UNPACKED_BYTES + MAX_METADATA_BYTES
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise script_refused("Expected a multipart/form-data body.")
    metadata: str | bytes | None = None
    parts: list[upload.Part] = []
    try:
        async with request.form(
            max_files=MAX_FILES, max_fields=MAX_FILES, max_part_size=MAX_METADATA_BYTES
        ) as form:
            for field, value in form.multi_items():
                if field == "metadata":
                    metadata = await value.read() if isinstance(value, UploadFile) else value
                elif isinstance(value, UploadFile):
                    kind = (value.content_type or "").partition(";")[0].strip()
                    parts.append(upload.Part(value.filename or field, kind, await value.read()))
    except MultiPartException as error:
        raise script_refused(f"Invalid multipart body: {error.message}") from None
    if metadata is None:
        raise script_refused("The part 'metadata' is missing.")
    return metadata, parts
