"""The gateway's lease: only a gateway that holds one may admit.

Guarantees: an invocation is only ever admitted under a live lease of this incarnation of the
database. Before a lease is valid for another one, which may be an old copy, `before_taking` has
corrected the quotas. A lease that was marked dead is never renewed. Times are the database's.
With each renewal the gateways divide the rate limits anew, see `shares`.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from time import monotonic

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable

from webhost_gateway.shares import Shares
from webhost_gateway.tables import leases

log = structlog.get_logger(__name__)

RENEWALS = 4
"""Renewal attempts within one lease time."""
MAX_MISSED_RENEWALS = 2
"""How many consecutive renewals may be missed before the database counts as having been away."""


class Lease:
    """This gateway's name, for as long as the database agrees that it is alive."""

    def __init__(
        self, database: Database, *, ttl_s: float, before_taking: Callable[[], Awaitable[None]]
    ) -> None:
        self._database = database
        self._before_taking = before_taking
        self._problem: str | None = "starting"
        self._answering_since: float | None = None
        self._answered_at = 0.0
        self._soon = asyncio.Event()
        self.ttl_s = ttl_s
        self.every_s = ttl_s / RENEWALS
        self.shares = Shares(self.every_s)
        self._longest_gap_s = MAX_MISSED_RENEWALS * self.every_s
        self.gateway_id = _new_name()
        self.incarnation: str | None = None
        """That of the database which granted the lease; None before the first time."""

    def check(self) -> str | None:
        """Say what keeps this gateway from admitting."""
        return self._problem

    @property
    def judges_until(self) -> float | None:
        """The time, on the database's clock, until which this gateway may take others for dead.

        None until the database has answered it for one unbroken lease time: after an outage, a
        restore, or a pause of this process, the others may not have had the time to renew.
        """
        since = self._answering_since
        if since is None or self._answered_at - since < self.ttl_s:
            return None
        return self._answered_at + self._longest_gap_s

    def renew_soon(self) -> None:
        """Renew now instead of at the next interval."""
        self._soon.set()

    async def run(self) -> None:
        """Renew the lease until cancelled."""
        while True:
            try:
                self._answered(await self._renew())
                self._problem = None
            except (Unavailable, DBAPIError, TimeoutError) as error:
                self._answering_since = None
                self._problem = f"not renewed: {type(error).__name__}"
                log.warning("lease not renewed", error=str(error).partition("\n")[0])
            # A minimum interval, however often a renewal is requested.
            await asyncio.sleep(self.every_s / 10)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.every_s * 0.9):
                    await self._soon.wait()
            self._soon.clear()

    def _answered(self, at_s: float) -> None:
        gap_s = at_s - self._answered_at
        if self._answering_since is None or not 0 <= gap_s <= self._longest_gap_s:
            self._answering_since = at_s
        self._answered_at = at_s

    async def _renew(self) -> float:
        """Renew or take the lease; return the database's time in seconds."""
        if (at_s := await self._execute(self._renewed, same_database=True)) is not None:
            return at_s
        await self._before_taking()
        if (at_s := await self._execute(self._renewed)) is not None:
            return at_s
        # The calls under the old name are being finished: none may be added to it. Under the
        # new one nothing may be recorded before others see its lease, and adopt what it leaves.
        name = _new_name()
        if (at_s := await self._execute(partial(self._taken, name))) is None:
            raise Unavailable("The lease was not taken.")
        self.gateway_id = name
        log.info("lease taken", gateway_id=name)
        return at_s

    async def _execute(
        self, statement_for: Callable[..., sa.Insert | sa.Update], **options: bool
    ) -> float | None:
        async with asyncio.timeout(self.ttl_s), self._database.transaction() as connection:
            incarnation = connection.info["incarnation"]
            statement = statement_for(incarnation, **options)
            stated = statement.values(pressed=self.shares.state())
            renewed = await connection.execute(stated.returning(leases.c.gateway_id, _NOW_S))
            if (row := renewed.one_or_none()) is None:
                return None
            others = sa.select(leases.c.pressed).where(
                leases.c.gateway_id != row.gateway_id,
                leases.c.incarnation == incarnation,
                leases.c.expires_at > sa.func.clock_timestamp(),
                sa.not_(leases.c.dead),
            )
            stated_by_others = (await connection.execute(others)).scalars().all()
            at_s: float = row.at_s
        self.shares.agree(stated_by_others, monotonic())
        if incarnation != self.incarnation:
            self.incarnation, self._answering_since = incarnation, None
        return at_s

    def _renewed(self, incarnation: str, *, same_database: bool = False) -> sa.Update:
        statement = sa.update(leases).where(
            leases.c.gateway_id == self.gateway_id, sa.not_(leases.c.dead)
        )
        if same_database:
            statement = statement.where(leases.c.incarnation == incarnation)
        return statement.values(incarnation=incarnation, expires_at=_expiry(self.ttl_s))

    def _taken(self, name: str, incarnation: str) -> sa.Insert:
        return sa.insert(leases).values(
            gateway_id=name, incarnation=incarnation, expires_at=_expiry(self.ttl_s)
        )


def _new_name() -> str:
    return f"gw_{secrets.token_hex(12)}"


def _expiry(ttl_s: float) -> sa.ColumnElement[datetime]:
    return sa.func.clock_timestamp() + timedelta(seconds=ttl_s)


_NOW_S = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double).label("at_s")
