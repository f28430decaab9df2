"""From an upload request to the script it asks for, by Cloudflare's rules. Pure.

Consumes the metadata and the module parts of one upload, and the script as it is. Emits the
script as it would be, with the modules' bytes. Raises ApiError with Cloudflare's code where
Cloudflare refuses. Uploading the same again makes a new version of the same script.
"""

import gzip
import re
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from webhost_local.edge.errors import bad_request, script_refused, script_too_large
from webhost_local.edge.model import (
    MODULE_KINDS,
    SECRET_TYPES,
    Binding,
    Migrations,
    Module,
    Script,
    Version,
    script_key,
)

SCRIPT_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
MAX_TAGS = 8
MAX_TEXT_BYTES = 5 * 1024
MAX_SECRETS_AT_ONCE = 100
MAX_PACKED_BYTES = 10 * 1024 * 1024
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
OLDEST_COMPATIBILITY_DATE = "2021-11-02"


class Part(msgspec.Struct, frozen=True):
    """One file of the multipart body: its file name, content type (no parameters) and bytes."""

    name: str
    content_type: str
    content: bytes


class Limits(msgspec.Struct, frozen=True):
    """What a script may use, in so far as the edge can tell."""

    cpu_ms: int = 30_000


class Metadata(msgspec.Struct, frozen=True):
    """The part `metadata`, as far as the edge acts on it; the rest is ignored."""

    main_module: str | None = None
    compatibility_date: str | None = None
    compatibility_flags: list[str] = []
    tags: list[str] | None = None
    bindings: list[dict[str, Any]] = []
    # An upload that does not say what it keeps, keeps the secrets.
    keep_bindings: frozenset[str] = SECRET_TYPES
    migrations: Migrations | None = None
    limits: Limits = Limits()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def check_name(name: str) -> None:
    if not SCRIPT_NAME.match(name):
        raise bad_request(
            "Invalid Worker name: lower case letters, digits, '-' and '_', at most 63.", 10016
        )


class Others(msgspec.Struct, frozen=True):
    """What an upload's bindings may name: scripts by key, and dispatch namespaces."""

    scripts: Collection[str]
    namespaces: Collection[str]


def plan(
    name: str,
    namespace: str | None,
    raw_metadata: str | bytes,
    parts: Sequence[Part],
    current: Script | None,
    others: Others,
    *,
    inherit_strictly: bool,
) -> tuple[Script, Mapping[str, bytes]]:
    """The script after this upload, and its modules' bytes by file name."""
    check_name(name)
    try:
        metadata = msgspec.json.decode(raw_metadata, type=Metadata)
    except msgspec.DecodeError as error:
        raise script_refused(f"Invalid metadata: {error}") from None
    modules, files = _modules(metadata.main_module, parts)
    tags = metadata.tags if metadata.tags is not None else (current.tags if current else [])
    check_tags(tags)
    namespaces = dict(current.namespaces) if current else {}
    migration_tag = current.migration_tag if current else None
    if metadata.migrations is not None:
        namespaces = metadata.migrations.apply(namespaces, migration_tag, _new_id)
        migration_tag = metadata.migrations.new_tag or migration_tag
    bindings = _bindings(metadata, current.bindings if current else [], inherit_strictly)
    for binding in bindings:
        _check_target(binding, script_key(name, namespace), namespaces, others)
    if namespace is not None and namespaces:
        raise script_refused("The local edge has no Durable Objects in a dispatch namespace.")
    now = now_ms()
    script = Script(
        name=name,
        id=current.id if current else _new_id(),
        created_at_ms=current.created_at_ms if current else now,
        modified_at_ms=now,
        version=Version(
            id=str(uuid.uuid4()),
            modules=modules,
            compatibility_date=_compatibility_date(metadata.compatibility_date),
            compatibility_flags=metadata.compatibility_flags,
            created_at_ms=now,
            cpu_ms=metadata.limits.cpu_ms,
        ),
        bindings=bindings,
        tags=tags,
        namespaces=namespaces,
        migration_tag=migration_tag,
        subdomain_enabled=current.subdomain_enabled if current else False,
        previews_enabled=current.previews_enabled if current else False,
        namespace=namespace,
    )
    return script, files


def with_secrets(script: Script, changes: Mapping[str, str | None]) -> Script:
    """The script with these secrets set, and without those that are None."""
    if len(changes) > MAX_SECRETS_AT_ONCE:
        raise bad_request(f"At most {MAX_SECRETS_AT_ONCE} secrets can be changed at once.")
    removed = {name for name, text in changes.items() if text is None}
    kept = [b for b in script.bindings if not (is_secret(b) and b.name in removed)]
    script = msgspec.structs.replace(script, bindings=kept, modified_at_ms=now_ms())
    for name, text in changes.items():
        if text is not None:
            script = with_secret(script, name, text)
    return script


def with_secret(script: Script, name: str, text: str) -> Script:
    """The script with this secret set; a binding of the same name is replaced."""
    secret = Binding(type="secret_text", name=name, text=text)
    _check_text(secret)
    kept = [b for b in script.bindings if b.name != name]
    return msgspec.structs.replace(script, bindings=[*kept, secret], modified_at_ms=now_ms())


def _new_id() -> str:
    return uuid.uuid4().hex


def _modules(main: str | None, parts: Sequence[Part]) -> tuple[list[Module], Mapping[str, bytes]]:
    if main is None:
        raise script_refused("The uploaded script has no main_module.")
    modules: list[Module] = []
    files: dict[str, bytes] = {}
    for index, part in enumerate(parts):
        if part.content_type == "application/source-map":
            continue
        kind = MODULE_KINDS.get(part.content_type)
        if kind is None:
            raise script_refused(f"Unsupported content type {part.content_type!r} of {part.name}.")
        module = Module(name=part.name, kind=kind, file=str(index))
        files[module.file] = part.content
        if part.name == main:
            modules.insert(0, module)
        else:
            modules.append(module)
    if not modules or modules[0].name != main:
        raise script_refused(f"The main_module '{main}' is not among the uploaded modules.")
    if len({module.name for module in modules}) != len(modules):
        raise script_refused("Two modules have the same name.")
    _check_size(list(files.values()))
    return modules, files


def _check_size(contents: Sequence[bytes]) -> None:
    unpacked = sum(map(len, contents))
    if unpacked > MAX_UNPACKED_BYTES:
        raise script_too_large("Your Worker exceeded the size limit of 64 MiB before compression.")
    # What counts is the compressed size, which cannot pass the limit when the plain one does not.
    if unpacked > MAX_PACKED_BYTES and len(gzip.compress(b"".join(contents), 6)) > MAX_PACKED_BYTES:
        raise script_too_large("Your Worker exceeded the size limit of 10 MiB.")


def check_tags(tags: Sequence[str]) -> None:
    if len(tags) > MAX_TAGS:
        raise bad_request(f"A Worker can have at most {MAX_TAGS} tags.", 10100)
    if any("," in tag or "&" in tag or not tag for tag in tags):
        raise bad_request("A tag cannot be empty or contain ',' or '&'.", 10100)


def _compatibility_date(date: str | None) -> str:
    if date is None:
        return OLDEST_COMPATIBILITY_DATE
    try:
        parsed = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise script_refused(f"Invalid compatibility date: {date}") from None
    if parsed > datetime.now(UTC):
        raise script_refused(f"Can't set compatibility date in the future: {date}")
    return date


def _bindings(
    metadata: Metadata, previous: Sequence[Binding], inherit_strictly: bool
) -> list[Binding]:
    before = {binding.name: binding for binding in previous}
    result: dict[str, Binding] = {}
    for raw in metadata.bindings:
        try:
            binding = msgspec.convert(raw, Binding)
        except msgspec.ValidationError as error:
            raise script_refused(f"Invalid binding: {error}") from None
        if binding.type == "inherit":
            inherited = before.get(binding.name)
            if inherited is not None:
                result[binding.name] = inherited
            elif inherit_strictly:
                raise bad_request(f"Cannot inherit binding '{binding.name}'.", 10057)
            continue
        if binding.name in result:
            raise script_refused(f"Binding name '{binding.name}' already in use.")
        _check_text(binding)
        _check_supported(binding, raw)
        result[binding.name] = binding
    kept = {b.name: b for b in previous if b.type in metadata.keep_bindings}
    return list({**kept, **result}.values())


def _check_text(binding: Binding) -> None:
    if binding.text is not None and len(binding.text.encode()) > MAX_TEXT_BYTES:
        raise bad_request(f"Binding '{binding.name}' is larger than 5 KiB.", 10054)


def _check_supported(binding: Binding, raw: Mapping[str, Any]) -> None:
    complete = {
        "plain_text": binding.text is not None,
        "secret_text": binding.text is not None,
        "json": "json" in raw,
        "service": bool(binding.service),
        "durable_object_namespace": bool(binding.class_name),
        "dispatch_namespace": bool(binding.namespace),
    }.get(binding.type)
    if complete is None:
        raise script_refused(f"Binding type '{binding.type}' is not supported by the local edge.")
    if not complete:
        raise script_refused(f"Binding '{binding.name}' of type '{binding.type}' is incomplete.")
    if raw.get("entrypoint") or raw.get("script_name"):
        raise script_refused(
            f"Binding '{binding.name}': entrypoint and script_name are not supported here."
        )


def _check_target(
    binding: Binding, key: str, namespaces: Mapping[str, Any], others: Others
) -> None:
    if binding.namespace is not None and binding.namespace not in others.namespaces:
        raise bad_request(f"Dispatch namespace '{binding.namespace}' not found.", 100119)
    service = binding.outbound.worker.service if binding.outbound else binding.service
    if service is not None and service not in {key, *others.scripts}:
        raise bad_request(
            f"Could not resolve service binding '{binding.name}'. "
            f"Target script '{service}' not found.",
            10143,
        )
    if binding.class_name is not None and binding.class_name not in namespaces:
        raise bad_request(
            f"Cannot create binding for class '{binding.class_name}' because it is not "
            "currently configured to implement Durable Objects.",
            10061,
        )


def is_secret(binding: Binding) -> bool:
    return binding.type in SECRET_TYPES
