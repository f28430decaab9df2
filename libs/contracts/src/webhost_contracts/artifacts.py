"""What is deployed: content-addressed modules in the artifact store."""

import base64
import hashlib
from typing import Literal

from webhost_contracts.wire import Wire


class Artifact(Wire, frozen=True, kw_only=True):
    """A stored bundle. Its checksum is `sha256:<hex>` of its bytes, and its name in the store."""

    type: str
    checksum: str
    size_bytes: int


class Module(Wire, frozen=True, kw_only=True):
    """One module by the name under which others import it; its suffix says of which kind it is.

    `content` is text, or with the encoding `base64` the bytes of what is none: WebAssembly.
    """

    name: str
    content: str
    encoding: Literal["utf-8", "base64"] = "utf-8"

    @classmethod
    def binary(cls, name: str, body: bytes) -> "Module":
        """Return the module of these bytes, which are not text."""
        return cls(name=name, content=base64.b64encode(body).decode(), encoding="base64")

    @property
    def body(self) -> bytes:
        """Return the module's bytes. Raises ValueError where the content is not what it says."""
        if self.encoding == "base64":
            return base64.b64decode(self.content, validate=True)
        return self.content.encode()


class Bundle(Wire, frozen=True, kw_only=True):
    """What an artifact holds, as canonical JSON: the modules, the main one named in the event."""

    modules: tuple[Module, ...]


MODULES_TYPE = "modules"

ModuleKind = Literal["javascript", "json", "text", "wasm"]

MODULE_KINDS: dict[str, ModuleKind] = {
    ".js": "javascript",
    ".mjs": "javascript",
    ".json": "json",
    ".txt": "text",
    ".wasm": "wasm",
}
"""What a module is, by the suffix of its name. All JavaScript is ES modules."""

RESERVED_MODULE_PREFIX = "webhost-"
"""So the platform's own modules begin, beside which a customer's are."""


def kind_of(name: str) -> ModuleKind | None:
    """Return what a module of this name is, None where it can be none."""
    return next((kind for suffix, kind in MODULE_KINDS.items() if name.endswith(suffix)), None)


def checksum_of(body: bytes) -> str:
    """Return the checksum of a bundle's bytes."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
