"""What is deployed: content-addressed JavaScript in the artifact store."""

import hashlib

from webhost_contracts.wire import Wire


class Artifact(Wire, frozen=True, kw_only=True):
    """A stored bundle. Its checksum is `sha256:<hex>` of its bytes, and its name in the store."""

    type: str
    checksum: str
    size_bytes: int


class Module(Wire, frozen=True, kw_only=True):
    """One JavaScript module by the name under which others import it."""

    name: str
    content: str


class Bundle(Wire, frozen=True, kw_only=True):
    """What an artifact holds, as canonical JSON: the modules, the main one named in the event."""

    modules: tuple[Module, ...]


MODULES_TYPE = "modules"


def checksum_of(body: bytes) -> str:
    """Return the checksum of a bundle's bytes."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
