"""The collector: removes, from time to time, the artifacts that no deployment needs.

Consumes: the artifact store's names, and the api's own rows. Emits: nothing.
Guarantees: an artifact stays while a deployment that refers to it runs, answers or is kept, while
an upload of it can be deployed, and for the grace time after somebody last meant to deploy it: that
is on record before it is stored, and while one is removed, under the lock of its row, nobody can
mean to. The api's facts say what is needed, and nothing is removed by tables that may be older than
the streams. What the store holds and the tables do not know (the database was restored) has its
grace time from when it is seen.
What has no name there, since it was never stored to its end, goes a minute after it is seen.
On replay (a kill in the middle of a removal): it is removed at the next collection.
"""

import asyncio
import base64
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic

import sqlalchemy as sa
import structlog
from nats.js.errors import ObjectNotFoundError
from prometheus_client import Counter
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database, Transactions
from webhost_kit.eventsourcing.store import require_verified
from webhost_kit.periodic import every

from webhost_api.model import GONE
from webhost_api.tables import artifacts, deployments, uploads

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
REMOVAL_TIMEOUT_S = 3.0
"""Shorter than a transaction may be idle: the row's lock outlives the removal."""
NAMELESS_S = 60.0
"""Longer than it takes to store an artifact, which gets its name at the end."""
BATCH = 500

_META = f"$O.{subjects.ARTIFACTS_BUCKET}.M."
_CHUNKS = f"$O.{subjects.ARTIFACTS_BUCKET}.C."

_removed = Counter(
    "webhost_api_artifacts_removed_total",
    "Deployed code that was removed: no deployment needed it any more",
)


async def want(database: Transactions, checksum: str) -> None:
    """Put on record that somebody means to deploy this artifact now. Raises Unavailable."""
    async with database.transaction() as connection:
        await connection.execute(_wanted([checksum], again=True))


class Collector:
    """Collects once an hour, or four times in a shorter grace time."""

    def __init__(
        self, database: Database, bus: Bus, *, grace_s: float, nameless_s: float = NAMELESS_S
    ) -> None:
        self._nameless_s = nameless_s
        self._nameless: dict[str, float] = {}
        self._database = database
        self._bus = bus
        self._grace_ms = int(grace_s * 1000)
        self._every_s = min(EVERY_S, grace_s / 4)

    async def run(self) -> None:
        """Collect as long as the process lives."""
        await every(self._every_s, self.once, "artifacts", alone_at=self._database)

    async def once(self) -> int:
        """Remove what is not needed; return how many artifacts that were.

        Raises Unavailable, or an error of the bus.
        """
        stored = await self._stored()
        await self._adopt(stored)
        await self._remove_nameless(stored)
        removed = 0
        while unneeded := await self._unneeded():
            for checksum in unneeded:
                removed += await self._remove(checksum)
        if removed:
            log.info("artifacts removed", count=removed)
        return removed

    async def _stored(self) -> list[str]:
        names = await self._subjects(_META)
        return [base64.urlsafe_b64decode(name).decode() for name in names]

    async def _subjects(self, prefix: str) -> set[str]:
        """What there is below a subject of the store's."""
        stream = subjects.ARTIFACTS_STREAM
        info = await self._bus.js.stream_info(stream, subjects_filter=f"{prefix}>")
        return {subject.removeprefix(prefix) for subject in info.state.subjects or {}}

    async def _remove_nameless(self, stored: list[str]) -> None:
        contents = await self._subjects(_CHUNKS)
        if len(contents) > len(stored):
            store = await self._bus.js.object_store(subjects.ARTIFACTS_BUCKET)
            for checksum in stored:
                with suppress(ObjectNotFoundError):
                    contents.discard((await store.get_info(checksum, show_deleted=True)).nuid)
        else:
            contents.clear()
        now = monotonic()
        self._nameless = {content: self._nameless.get(content, now) for content in contents}
        for content, seen_at in self._nameless.items():
            if now - seen_at >= self._nameless_s:
                await self._purge(f"{_CHUNKS}{content}")

    async def _purge(self, subject: str) -> None:
        await self._bus.js.purge_stream(subjects.ARTIFACTS_STREAM, subject=subject)

    async def _adopt(self, checksums: list[str]) -> None:
        async with self._database.transaction() as connection:
            require_verified(connection)
            for start in range(0, len(checksums), BATCH):
                batch = checksums[start : start + BATCH]
                await connection.execute(_wanted(batch, again=False))

    async def _unneeded(self) -> list[str]:
        async with self._database.transaction() as connection:
            query = sa.select(artifacts.c.checksum).where(self._is_unneeded())
            return list(await connection.scalars(query.limit(BATCH)))

    async def _remove(self, checksum: str) -> bool:
        async with self._database.transaction() as connection:
            require_verified(connection)
            if not await self._locked(connection, checksum):
                return False
            async with asyncio.timeout(REMOVAL_TIMEOUT_S):
                await self._remove_stored(checksum)
            this = artifacts.c.checksum == checksum
            await connection.execute(sa.delete(artifacts).where(this))
        _removed.inc()
        return True

    async def _locked(self, connection: AsyncConnection, checksum: str) -> bool:
        """Lock the artifact's row, where it is not needed, until the transaction ends."""
        query = sa.select(artifacts.c.checksum).where(
            artifacts.c.checksum == checksum, self._is_unneeded()
        )
        return await connection.scalar(query.with_for_update()) is not None

    async def _remove_stored(self, checksum: str) -> None:
        store = await self._bus.js.object_store(subjects.ARTIFACTS_BUCKET)
        try:
            info = await store.get_info(checksum, show_deleted=True)
        except ObjectNotFoundError:
            return
        if info.deleted:
            # Its removal was interrupted.
            await self._purge(f"{_CHUNKS}{info.nuid}")
        else:
            await store.delete(checksum)
        # A tombstone would stay for ever.
        name = base64.urlsafe_b64encode(checksum.encode()).decode()
        await self._purge(f"{_META}{name}")

    def _is_unneeded(self) -> sa.ColumnElement[bool]:
        needed = sa.exists().where(
            deployments.c.checksum == artifacts.c.checksum,
            deployments.c.status.not_in(GONE),
        )
        now = now_ms()
        uploaded = sa.exists().where(
            uploads.c.checksum == artifacts.c.checksum, uploads.c.expires_at_ms > now
        )
        return sa.and_(artifacts.c.wanted_at_ms < now - self._grace_ms, ~needed, ~uploaded)


def _wanted(checksums: Iterable[str], *, again: bool) -> sa.Insert:
    rows = [{"checksum": checksum, "wanted_at_ms": now_ms()} for checksum in checksums]
    statement = insert(artifacts).values(rows)
    if not again:
        return statement.on_conflict_do_nothing()
    newest = sa.func.greatest(artifacts.c.wanted_at_ms, statement.excluded.wanted_at_ms)
    return statement.on_conflict_do_update(
        index_elements=["checksum"], set_={"wanted_at_ms": newest}
    )
