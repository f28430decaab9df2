"""From the files of an archive to what is deployed: the manifest and the modules. Pure.

Guarantees: what passes has its manifest at the top, an entrypoint that is there and is JavaScript,
no name of the platform's, text that is text and WebAssembly that looks like it. Whether the code
compiles, the runtime provider says.
"""

from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import ValidationError
from webhost_contracts import wire
from webhost_contracts.artifacts import (
    MODULE_KINDS,
    MODULES_TYPE,
    RESERVED_MODULE_PREFIX,
    Artifact,
    Module,
    checksum_of,
    kind_of,
)
from webhost_kit.errors import InvalidRequest

from webhost_api.archives import reading
from webhost_api.archives.entries import MAX_ISSUES, MIB, File, Issues
from webhost_api.schemas.uploads import ManifestSchema

MANIFEST = "agent.config.json"
MAX_MANIFEST_BYTES = 64 * 1024
MAX_ARTIFACT_BYTES = 64 * MIB
"""Of text and bytes as JSON. Text that needs more than this for its 30 MiB is not code."""

_WASM_MAGIC = b"\0asm"


class Packed(Struct, frozen=True, kw_only=True):
    """A bundle as it is stored, and what is remembered of it."""

    artifact: Artifact
    body: bytes
    manifest: ManifestSchema
    module_names: tuple[str, ...]


def read(archive: bytes) -> Packed:
    """Return the bundle in an archive. Raises InvalidRequest."""
    files = reading.read(archive)
    manifest = _manifest(files)
    modules = sorted((file for file in files if file.name != MANIFEST), key=lambda it: it.name)
    _check(modules)
    names = tuple(file.name for file in modules)
    if manifest.entrypoint not in names:
        raise InvalidRequest.at(
            [MANIFEST, "entrypoint"],
            f"There is no module {manifest.entrypoint} in the archive; name one that there is.",
        )
    body = _packed(modules)
    artifact = Artifact(type=MODULES_TYPE, checksum=checksum_of(body), size_bytes=len(body))
    return Packed(artifact=artifact, body=body, manifest=manifest, module_names=names)


def _manifest(files: list[File]) -> ManifestSchema:
    named = [file for file in files if file.name.rpartition("/")[2] == MANIFEST]
    found = next((file for file in named if file.name == MANIFEST), None)
    if found is None:
        folder = named[0].name.removesuffix(MANIFEST) if named else ""
        where = f" It is in {folder}: pack the files from inside of that folder." if folder else ""
        raise InvalidRequest.at(
            [MANIFEST], f"The archive needs a file {MANIFEST} at its top, beside no folder.{where}"
        )
    if len(found.body) > MAX_MANIFEST_BYTES:
        raise InvalidRequest.at([MANIFEST], f"It is larger than {MAX_MANIFEST_BYTES} bytes.")
    try:
        return ManifestSchema.model_validate_json(found.body)
    except ValidationError as error:
        found_issues = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidRequest(
            f"{MANIFEST} is not valid.",
            details={"issues": [_issue_of(it) for it in found_issues[:MAX_ISSUES]]},
        ) from error


def _issue_of(found: Any) -> dict[str, Any]:
    message = str(found["msg"]).removeprefix("Value error, ")
    return {"path": [MANIFEST, *found["loc"]], "message": message}


def _check(modules: list[File]) -> None:
    issues = Issues()
    for file in modules:
        if problem := _problem_of(file):
            issues.add(file.name, problem)
    issues.refuse()


def _problem_of(file: File) -> str:
    if file.name.lower().startswith(RESERVED_MODULE_PREFIX):
        return f"Names that begin with {RESERVED_MODULE_PREFIX} are the platform's; rename it."
    match kind_of(file.name):
        case None:
            return f"Only {', '.join(MODULE_KINDS)} files go into a bundle; leave it out."
        case "wasm":
            return "" if file.body.startswith(_WASM_MAGIC) else "It is not WebAssembly."
        case "json":
            return _json_problem(file.body)
        case "javascript" | "text":
            return ""


def _json_problem(body: bytes) -> str:
    try:
        # It is not built: small JSON can be a lot of objects.
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"It is not JSON: {error}."
    return ""


def _packed(modules: list[File]) -> bytes:
    """Return the bundle as `wire.encode` would, without all of it in memory more than once."""
    body = bytearray(b'{"modules":[')
    for number, file in enumerate(modules):
        body += b"," * (number > 0)
        for part in _encoded(file):
            body += part
            if len(body) > MAX_ARTIFACT_BYTES:
                raise InvalidRequest.at(
                    [file.name], "The bundle is mostly characters that are no text; leave them out."
                )
    body += b"]}"
    return bytes(body)


def _encoded(file: File) -> Iterator[bytes]:
    if kind_of(file.name) == "wasm":
        yield wire.encode(Module.binary(file.name, file.body))
        return
    before, after = wire.encode(Module(name=file.name, content="|")).split(b"|")
    yield before
    decoder = getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(file.body), MIB):
            text = decoder.decode(file.body[at : at + MIB])
            yield wire.encode(text)[1:-1]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InvalidRequest.at([file.name], "It is not UTF-8 text; save it as UTF-8.") from error
    yield after
