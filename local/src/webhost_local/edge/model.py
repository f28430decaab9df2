"""What the edge keeps about a script, and how a namespace of Durable Objects comes and goes. Pure.

Everything here is stored as JSON in the script's manifest, secrets included.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from webhost_local.edge.errors import ApiError, bad_request

ModuleKind = Literal["esModule", "commonJsModule", "text", "data", "wasm", "json"]

MODULE_KINDS: dict[str, ModuleKind] = {
    "application/javascript+module": "esModule",
    "text/javascript+module": "esModule",
    "application/javascript": "commonJsModule",
    "text/javascript": "commonJsModule",
    "application/wasm": "wasm",
    "text/plain": "text",
    "application/octet-stream": "data",
}
SECRET_TYPES = frozenset({"secret_text", "secret_key"})


class Module(msgspec.Struct, frozen=True):
    """One module of a version; its content is the file `<version>/<file>`."""

    name: str
    kind: ModuleKind
    file: str


class OutboundWorker(msgspec.Struct, frozen=True):
    """The script that a dispatch namespace's requests go through."""

    service: str


class Parameter(msgspec.Struct, frozen=True):
    """One value that the dispatch Worker gives the outbound Worker."""

    name: str


class Outbound(msgspec.Struct, frozen=True):
    """The outbound Worker of a dispatch namespace binding."""

    worker: OutboundWorker
    params: list[Parameter] = []


class Binding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A binding as Cloudflare's metadata writes it; only the fields of its type are set."""

    type: str
    name: str
    text: str | None = None
    json: Any = None
    service: str | None = None
    props: dict[str, Any] | None = None
    class_name: str | None = None
    namespace: str | None = None
    outbound: Outbound | None = None

    def public(self, namespace_id: str | None = None) -> dict[str, Any]:
        """The binding as the API shows it: a secret without its value."""
        shown = msgspec.to_builtins(self)
        if self.type in SECRET_TYPES:
            shown.pop("text", None)
        if namespace_id is not None:
            shown["namespace_id"] = namespace_id
        return shown


class Namespace(msgspec.Struct, frozen=True):
    """The Durable Objects of one class: `key` names their storage and never changes."""

    key: str
    sqlite: bool


class Version(msgspec.Struct, frozen=True):
    """One uploaded version of the code. The first module is the main one."""

    id: str
    modules: list[Module]
    compatibility_date: str
    compatibility_flags: list[str]
    created_at_ms: int
    cpu_ms: int = 30_000
    """How long the script may keep its process from answering anything."""


class Script(msgspec.Struct, frozen=True):
    """A script with its current version. `id` is the script's own: a deleted name starts anew.

    `namespace` is the dispatch namespace that it is in, None for one of the account's own.
    """

    name: str
    id: str
    created_at_ms: int
    modified_at_ms: int
    version: Version
    bindings: list[Binding]
    tags: list[str]
    namespaces: dict[str, Namespace]
    migration_tag: str | None = None
    subdomain_enabled: bool = False
    previews_enabled: bool = False
    namespace: str | None = None

    @property
    def key(self) -> str:
        """What the script is known by: its name, with its dispatch namespace where it is in one."""
        return script_key(self.name, self.namespace)

    def services(self) -> frozenset[str]:
        """Names of the scripts that this one calls through service bindings."""
        return frozenset(b.service for b in self.bindings if b.service is not None)


def script_key(name: str, namespace: str | None) -> str:
    """The key of a script; no script's name has an `@`."""
    return name if namespace is None else f"{namespace}@{name}"


class DispatchNamespace(msgspec.Struct, frozen=True):
    """A dispatch namespace: what user Workers are uploaded into, and called from."""

    id: str
    name: str
    created_at_ms: int


class Route(msgspec.Struct, frozen=True):
    """A route of the zone: requests that match the pattern go to the script."""

    id: str
    pattern: str
    script: str | None


class Migration(msgspec.Struct, frozen=True):
    """One step that changes which classes have Durable Object namespaces."""

    new_classes: list[str] = []
    new_sqlite_classes: list[str] = []
    deleted_classes: list[str] = []
    renamed_classes: list[dict[str, str]] = []
    transferred_classes: list[dict[str, str]] = []


class Migrations(Migration, frozen=True):
    """Migrations of one upload, in either form: one step inline, or a list of steps."""

    old_tag: str | None = None
    new_tag: str | None = None
    steps: list[Migration] = []

    def apply(
        self, namespaces: dict[str, Namespace], current_tag: str | None, new_key: Callable[[], str]
    ) -> dict[str, Namespace]:
        """The namespaces after these migrations; raises ApiError where Cloudflare refuses."""
        if self.old_tag is not None and self.old_tag != current_tag:
            raise ApiError(
                412,
                10079,
                "Cannot apply migrations: the old_tag does not match the script's migration tag "
                f"'{current_tag or ''}'.",
            )
        result = dict(namespaces)
        for step in (self, *self.steps):
            _apply_step(step, result, new_key)
        return result


def _apply_step(
    step: Migration, namespaces: dict[str, Namespace], new_key: Callable[[], str]
) -> None:
    if step.transferred_classes:
        raise bad_request("Transferring Durable Object classes is not supported here.")
    for sqlite, names in ((False, step.new_classes), (True, step.new_sqlite_classes)):
        for name in names:
            if name in namespaces:
                raise bad_request(
                    f"Cannot apply new-class migration to class '{name}' that is already "
                    "depended on by existing Durable Objects.",
                    10074,
                )
            namespaces[name] = Namespace(key=new_key(), sqlite=sqlite)
    for name in step.deleted_classes:
        if namespaces.pop(name, None) is None:
            raise bad_request(f"Cannot apply deleted_classes migration to class '{name}'.", 10072)
    for rename in step.renamed_classes:
        moved = namespaces.pop(rename.get("from", ""), None)
        if moved is None or rename.get("to", "") in ("", *namespaces):
            raise bad_request("Cannot apply renamed_classes migration.", 10073)
        namespaces[rename["to"]] = moved
