"""Stores what is to be deployed, and reads it again.

Guarantees: a bundle is stored when `put` returns, and is not written again if it already exists;
it stays for the grace time at least, and longer where a deployment needs it (see `collector`).
"""

from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore
from webhost_contracts import subjects, wire
from webhost_contracts.artifacts import MODULES_TYPE, Artifact, Bundle, checksum_of
from webhost_kit.bus import artifacts
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Transactions
from webhost_kit.errors import ArtifactMissing, NotFound

from webhost_api.collector import want


def pack(bundle: Bundle) -> tuple[Artifact, bytes]:
    """Return a bundle's name, and its bytes."""
    body = wire.encode(bundle)
    return Artifact(type=MODULES_TYPE, checksum=checksum_of(body), size_bytes=len(body)), body


class Artifacts:
    """Puts and reads bundles. Both raise Unavailable while the store is away."""

    def __init__(self, bus: Bus, database: Transactions) -> None:
        self._bus = bus
        self._database = database

    async def put(self, artifact: Artifact, body: bytes) -> None:
        """Store a packed bundle, which is to be deployed."""
        await want(self._database, artifact.checksum)
        async with artifacts.artifact_store(self._bus, artifact.size_bytes) as store:
            if not await self._holds(store, artifact):
                await store.put(artifact.checksum, body)

    async def keep(self, artifact: Artifact) -> bool:
        """Keep a stored artifact, which is to be deployed, for the grace time from now on.

        Return whether it is there.
        """
        await want(self._database, artifact.checksum)
        async with artifacts.artifact_store(self._bus) as store:
            return await self._holds(store, artifact)

    async def read(self, artifact: Artifact) -> bytes:
        """Return a stored bundle as it is stored. Raises NotFound when it is no longer there, and
        ArtifactInvalid when it is not what was stored.
        """
        try:
            return await artifacts.read_bytes(self._bus, artifact)
        except ArtifactMissing as error:
            message = "The code of this deployment is no longer stored; deploy it again."
            raise NotFound(message) from error

    async def _holds(self, store: ObjectStore, artifact: Artifact) -> bool:
        """Say whether the artifact is there, with its content and not as a name alone."""
        try:
            info = await store.get_info(artifact.checksum)
            content = f"$O.{subjects.ARTIFACTS_BUCKET}.C.{info.nuid}"
            await self._bus.js.get_last_msg(subjects.ARTIFACTS_STREAM, content)
        except NotFoundError:
            return False
        return info.size == artifact.size_bytes
