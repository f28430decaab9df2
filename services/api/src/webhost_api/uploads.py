"""Uploaded bundles: unpacked aside, kept as rows until they expire.

Guarantees: a bundle is unpacked and stored by AT_ONCE at a time, one of them a user's, in threads
of their own, so that no other request waits for it; of one user at most MOST_LIVE uploads, of
MOST_LIVE_BYTES, can be deployed at a time, exactly; an upload can be deployed for KEPT_MS, by its
user alone.
"""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_contracts.artifacts import MODULES_TYPE, Artifact
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import NotFound, RateLimited, Unavailable
from webhost_kit.http.bodies import Bodies

from webhost_api import bounds, bundles
from webhost_api.archives.entries import MAX_PACKED_BYTES, MIB
from webhost_api.bundles import Packed
from webhost_api.handlers import Caller, lock_user
from webhost_api.schemas.uploads import ManifestSchema
from webhost_api.tables import uploads
from webhost_api.turns import Turns

KEPT_MS = 24 * 3600 * 1000
"""No shorter than an idempotency key is remembered."""
MOST_LIVE = 50
MOST_LIVE_BYTES = 256 * MIB
AT_ONCE = 2
WAIT_S = 10.0

_BUSY = "Too many bundles are being unpacked; try again shortly."


class Upload(Struct, frozen=True, kw_only=True):
    """An uploaded bundle that can be deployed."""

    id: str
    artifact: Artifact
    manifest: ManifestSchema
    module_names: tuple[str, ...]
    expires_at_ms: int


def upload_not_found() -> NotFound:
    """Return the one answer for an upload that is missing, expired or someone else's."""
    return NotFound("There is no such upload, or no longer; upload the bundle again.")


def room() -> Bodies:
    """Return the room for the archives that one process holds, one of a user's at a time.

    It is not that of other bodies: they need not wait until an archive is unpacked and stored.
    """
    return Bodies(
        MAX_PACKED_BYTES, 3 * MAX_PACKED_BYTES, "Too many uploads are arriving; try again shortly."
    )


class Unpacker:
    """Where bundles are unpacked."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)
        self._of_user = Turns("unpacking", 1, WAIT_S, _BUSY)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="unpack")

    @asynccontextmanager
    async def unpacked(self, user_id: str, archive: bytes) -> AsyncGenerator[Packed]:
        """Hold the bundle in a user's archive. Raises InvalidRequest, or Unavailable where those
        before it take too long.
        """
        async with self._of_user.turn(user_id):
            try:
                async with asyncio.timeout(WAIT_S):
                    await self._free.acquire()
            except TimeoutError as error:
                raise Unavailable(_BUSY) from error
            try:
                unpacking = asyncio.get_running_loop().run_in_executor(
                    self._threads, bundles.read, archive
                )
                yield await unpacking
            finally:
                self._free.release()


async def require_room(connection: AsyncConnection, caller: Caller, artifact: Artifact) -> None:
    """Raise RateLimited where the user has too many uploads that can be deployed."""
    now = now_ms()
    query = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(uploads.c.size_bytes), 0),
        sa.func.min(uploads.c.expires_at_ms),
    ).where(uploads.c.user_id == caller.user_id, uploads.c.expires_at_ms > now)
    count, size, until_ms = (await connection.execute(query)).one()

    def full(name: str, what: str, current: int, limit: int) -> RateLimited:
        message = (
            f"You have {what} that can be deployed, and no room for more. Deploy one of them,"
            " or wait until the oldest expires."
        )
        times = {"window_ms": KEPT_MS, "wait_ms": until_ms - now}
        return bounds.full(name, message, current=current, limit=limit, **times)

    if count >= MOST_LIVE:
        raise full("uploads", f"{MOST_LIVE} uploads", count, MOST_LIVE)
    if count and size + artifact.size_bytes > MOST_LIVE_BYTES:
        what = f"uploads of {MOST_LIVE_BYTES // MIB} MiB"
        raise full("uploadBytes", what, int(size), MOST_LIVE_BYTES)


async def record(
    connection: AsyncConnection, caller: Caller, upload_id: str, packed: Packed
) -> Upload:
    """Record a stored bundle. Raises RateLimited, or Unavailable without the user's row."""
    await lock_user(connection, caller)
    await require_room(connection, caller, packed.artifact)
    created_at_ms = caller.metadata.at_ms
    row = {
        "upload_id": upload_id,
        "user_id": caller.user_id,
        "checksum": packed.artifact.checksum,
        "size_bytes": packed.artifact.size_bytes,
        "manifest": packed.manifest.model_dump(mode="json", by_alias=True),
        "module_names": list(packed.module_names),
        "created_at_ms": created_at_ms,
        "expires_at_ms": created_at_ms + KEPT_MS,
    }
    found = await connection.execute(sa.insert(uploads).values(row).returning(uploads))
    return _upload_of(found.one())


async def find(connection: AsyncConnection, user_id: str, upload_id: str) -> Upload:
    """Return one of the user's uploads. Raises NotFound."""
    row = None
    if ids.has_prefix(upload_id, ids.UPLOAD):
        query = sa.select(uploads).where(
            uploads.c.upload_id == upload_id,
            uploads.c.user_id == user_id,
            uploads.c.expires_at_ms > now_ms(),
        )
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise upload_not_found()
    return _upload_of(row)


async def remove_expired(database: Database) -> None:
    """Remove uploads that are past their retention. Raises Unavailable."""
    async with database.transaction() as connection:
        expired = uploads.c.expires_at_ms <= now_ms()
        await connection.execute(sa.delete(uploads).where(expired))


def _upload_of(row: sa.Row[Any]) -> Upload:
    return Upload(
        id=row.upload_id,
        artifact=Artifact(type=MODULES_TYPE, checksum=row.checksum, size_bytes=row.size_bytes),
        manifest=ManifestSchema.model_validate(row.manifest),
        module_names=tuple(row.module_names),
        expires_at_ms=row.expires_at_ms,
    )
