"""The artifact store: bundles by the checksum of their bytes, in JetStream's object store.

Guarantees: what is read matches its checksum; no use of the store takes longer than TIMEOUT_S, and
a second more for every BYTES_PER_S of the artifact. The error's type says whether a later attempt
may succeed.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BufferedIOBase, BytesIO
from typing import cast

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore
from webhost_contracts import subjects, wire
from webhost_contracts.artifacts import MODULES_TYPE, Artifact, Bundle, checksum_of

from webhost_kit.bus.connection import Bus
from webhost_kit.errors import ArtifactInvalid, ArtifactMissing, ArtifactsAway

TIMEOUT_S = 10.0
BYTES_PER_S = 4 * 1024 * 1024


@asynccontextmanager
async def artifact_store(bus: Bus, size_bytes: int = 0) -> AsyncGenerator[ObjectStore]:
    """The store, for one use that moves so many bytes. Raises ArtifactMissing or ArtifactsAway."""
    try:
        async with asyncio.timeout(TIMEOUT_S + size_bytes / BYTES_PER_S):
            yield await bus.js.object_store(subjects.ARTIFACTS_BUCKET)
    except ObjectNotFoundError as error:
        raise ArtifactMissing("The artifact is not in the store.") from error
    except (NatsError, TimeoutError, OSError) as error:
        raise ArtifactsAway("The artifact store is unavailable; try again shortly.") from error


async def read(bus: Bus, artifact: Artifact) -> Bundle:
    """Return the bundle. Raises ArtifactInvalid or ArtifactsAway."""
    body = await read_bytes(bus, artifact)
    try:
        return await asyncio.to_thread(wire.decode, body, Bundle)
    except msgspec.DecodeError as error:
        raise ArtifactInvalid("The stored artifact is not a bundle.") from error


async def read_bytes(bus: Bus, artifact: Artifact) -> bytes:
    """Return the bundle's bytes. Raises ArtifactInvalid or ArtifactsAway."""
    if artifact.type != MODULES_TYPE:
        raise ArtifactInvalid(f"Artifacts of type {artifact.type} cannot be deployed.")
    buffer = BytesIO()
    async with artifact_store(bus, artifact.size_bytes) as store:
        # Into a buffer: without one, each of the many chunks of a large one copies those before it.
        await store.get(artifact.checksum, writeinto=cast(BufferedIOBase, buffer))
    body = buffer.getvalue()
    if await asyncio.to_thread(checksum_of, body) != artifact.checksum:
        raise ArtifactInvalid("The stored artifact does not match its checksum.")
    return body
