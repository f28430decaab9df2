"""The artifact store: bundles by the checksum of their bytes, in JetStream's object store.

Guarantees: a bundle is stored when `put` returns, and is not written again if it already exists;
it stays for the grace time at least, and longer where a deployment needs it (see `collector`); what
`read` returns matches its checksum.
"""

import asyncio

from nats.errors import Error as NatsError
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore
from webhost_contracts import subjects, wire
from webhost_contracts.artifacts import MODULES_TYPE, Artifact, Bundle, checksum_of
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Database
from webhost_kit.errors import NotFound, Unavailable

from webhost_api.collector import want

TIMEOUT_S = 10.0
_AWAY = "The artifact store is unavailable; try again shortly."
_GONE = "The code of this deployment is no longer stored; deploy it again."


def pack(bundle: Bundle) -> tuple[Artifact, bytes]:
    """Return a bundle's name, and its bytes."""
    body = wire.encode(bundle)
    return Artifact(type=MODULES_TYPE, checksum=checksum_of(body), size_bytes=len(body)), body


class Artifacts:
    """Puts and reads bundles. Both raise Unavailable while the store is away."""

    def __init__(self, bus: Bus, database: Database) -> None:
        self._bus = bus
        self._database = database

    async def put(self, artifact: Artifact, body: bytes) -> None:
        """Store a packed bundle, which is to be deployed."""
        await want(self._database, artifact.checksum)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                store = await self._store()
                if not await _holds(store, artifact):
                    await store.put(artifact.checksum, body)
        except (NatsError, TimeoutError, OSError) as error:
            raise Unavailable(_AWAY) from error

    async def read(self, artifact: Artifact) -> Bundle:
        """Return a stored bundle. Raises NotFound when it is no longer there, and RuntimeError when
        its bytes have another checksum.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                store = await self._store()
                body = (await store.get(artifact.checksum)).data or b""
        except ObjectNotFoundError as error:
            raise NotFound(_GONE) from error
        except (NatsError, TimeoutError, OSError) as error:
            raise Unavailable(_AWAY) from error
        if checksum_of(body) != artifact.checksum:
            raise RuntimeError(f"the content of artifact {artifact.checksum} has another checksum")
        return wire.decode(body, Bundle)

    async def _store(self) -> ObjectStore:
        return await self._bus.js.object_store(subjects.ARTIFACTS_BUCKET)


async def _holds(store: ObjectStore, artifact: Artifact) -> bool:
    try:
        info = await store.get_info(artifact.checksum)
    except ObjectNotFoundError:
        return False
    return info.size == artifact.size_bytes
