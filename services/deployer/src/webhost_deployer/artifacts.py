"""The artifact store: content-addressed bundles in a JetStream object store.

Guarantees: what `read` returns matches its checksum; it returns, or fails, within TIMEOUT_S. The
error's type says whether a later attempt may succeed.
"""

import asyncio

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import ObjectNotFoundError
from webhost_contracts import subjects, wire
from webhost_contracts.artifacts import MODULES_TYPE, Artifact, Bundle, checksum_of
from webhost_kit.bus.connection import Bus

TIMEOUT_S = 10.0


class ArtifactAway(Exception):
    """The store does not answer; it may later."""


class ArtifactInvalid(Exception):
    """The stored artifact is not the one to be deployed, and retrying will not help."""


class Artifacts:
    """Reads bundles, each verified by its checksum."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def read(self, artifact: Artifact) -> Bundle:
        """Return the bundle. Raises ArtifactAway or ArtifactInvalid."""
        if artifact.type != MODULES_TYPE:
            raise ArtifactInvalid(f"Artifacts of type {artifact.type} cannot be deployed.")
        body = await self._bytes(artifact.checksum)
        if checksum_of(body) != artifact.checksum:
            raise ArtifactInvalid("The stored artifact does not match its checksum.")
        try:
            return wire.decode(body, Bundle)
        except msgspec.DecodeError as error:
            raise ArtifactInvalid("The stored artifact is not a bundle.") from error

    async def _bytes(self, name: str) -> bytes:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                store = await self._bus.js.object_store(subjects.ARTIFACTS_BUCKET)
                result = await store.get(name)
        except ObjectNotFoundError as error:
            raise ArtifactInvalid("The artifact is not in the store.") from error
        except (NatsError, TimeoutError, OSError) as error:
            raise ArtifactAway(
                f"The artifact store is unavailable: {type(error).__name__}"
            ) from error
        return result.data or b""
