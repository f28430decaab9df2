"""Reconciliation: every few minutes and when an operator asks, removes what no deployment owns, and
uploads those of the installation's own scripts again that are not current.

Consumes: `rpc.deployer.reconcile`; the account's scripts and routes, then the deployer's own rows
(in this order: what was made in between is not seen as an orphan).
Guarantees: one reconciliation at a time across all deployers; only what `orphans` decides is
touched, and nothing in a dry run; nothing is removed while the tables are behind the streams, for
all of them or for the agent it is of.
On replay: it may be repeated at any time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import structlog
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from prometheus_client import Counter
from sqlalchemy import select
from webhost_contracts import subjects, wire
from webhost_contracts.events import Envelope
from webhost_contracts.rpc import ReconcileReply, ReconcileRequest
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.away import is_away
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import held
from webhost_kit.errors import Unavailable
from webhost_kit.eventsourcing.store import events_table
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.process.metrics import ReadGauge

from webhost_deployer import store
from webhost_deployer.budget import calls_for
from webhost_deployer.cloudflare.account import Account
from webhost_deployer.cloudflare.addresses import Routing
from webhost_deployer.cloudflare.inventory import ListedScript
from webhost_deployer.cloudflare.orphans import (
    OwnRoute,
    Plan,
    deployments_of,
    own_routes,
    plan,
)
from webhost_deployer.cloudflare.scripts import tagged
from webhost_deployer.crash_points import ORPHANED_ROUTE, ORPHANED_SCRIPT, Moment, point
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ProviderError

log = structlog.get_logger(__name__)

LISTED = 1_000
"""How many names of each kind a reply has: it stays well below a message's maximum size."""

CURRENT_FOR = 3
"""For so many intervals what was missing is told. Who reconciles no more may have an old number."""

_removed = Counter(
    "webhost_deployer_orphans_removed_total",
    "Scripts and routes at the provider that belonged to nothing, and were removed",
)
_missing = ReadGauge(
    "webhost_deployer_scripts_missing",
    "Live deployments whose script is gone at the provider, as of the last reconciliation",
)


class TablesBehind(Exception):
    """The stream holds newer facts than the tables: what is an orphan is not known."""


class Reconciliation:
    """Reconciles one account and zone."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        account: Account,
        routing: Routing,
        refresh: Callable[[list[ListedScript]], Awaitable[None]],
        *,
        every_s: float,
        behind: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._database = database
        self._bus = bus
        self._account = account
        self._routing = routing
        self._refresh = refresh
        self._every_s = every_s
        self._behind = behind
        self._missing = 0
        self._reconciled_at: float | None = None
        _missing.read(self._told_missing)

    async def run(self) -> None:
        """Reconcile periodically; failures are logged, and retried the next time."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._alone(dry_run=False)
            except _FAILURES as error:
                _failed(error)
            except Exception as error:
                if not is_away(error):
                    raise
                _failed(error)

    async def reply(self, request: ReconcileRequest) -> ReconcileReply:
        """Reconcile for an operator, who is told what was found, or why not."""
        try:
            found = await self._alone(dry_run=request.dry_run)
        except ProviderError as error:
            refused = " ".join(filter(None, (f"Cloudflare: {error}", error.advice)))
            return ReconcileReply(refused=refused)
        except _FAILURES as error:
            return ReconcileReply(refused=str(error) or type(error).__name__)
        if found is None:
            return ReconcileReply(refused="another reconciliation is running; try again")
        return _report(found, removed=not request.dry_run)

    async def _alone(self, *, dry_run: bool) -> Plan | None:
        async with held(self._database.dsn, "reconciliation") as lock:
            if lock is None:
                return None
            with calls_for(None, removes=True):
                return await self.once(dry_run=dry_run)

    async def once(self, *, dry_run: bool = False) -> Plan:
        """Reconcile once; return what was found, and removed unless it is a dry run.

        Raises _FAILURES.
        """
        if (behind := self._behind()) is not None:
            raise TablesBehind(f"the deployer may be behind the streams: {behind}")
        listed_at_ms = now_ms()
        scripts = await self._account.list_scripts()
        if not dry_run:
            await self._refresh(scripts)
        routes = own_routes(self._routing, await self._account.list_routes())
        by_deployment = deployments_of(scripts)
        known = await self._known({*by_deployment, *(route.deployment_id for route in routes)})
        unknown = [route for route in routes if route.deployment_id not in known]
        agents = {
            tagged(script.tags, "agent")
            for deployment_id, its_scripts in by_deployment.items()
            if deployment_id not in known
            for script in its_scripts
        } | {route.agent_id for route in unknown}
        for agent_id in agents - {None}:
            await self._require_newest(str(agent_id))
        others = await self._others_scripts(unknown, scripts)
        found = plan(scripts, routes, known, listed_at_ms, others)
        self._missing, self._reconciled_at = len(found.missing), monotonic()
        if found.scripts or found.routes or found.missing:
            log.warning(
                "drift found" if dry_run else "reconciling",
                scripts=[script.name for script in found.scripts],
                routes=[route.pattern for route in found.routes],
                missing=list(found.missing),
            )
        if not dry_run:
            await self._remove(found)
        return found

    def _told_missing(self) -> float | None:
        at = self._reconciled_at
        is_current = at is not None and monotonic() - at < CURRENT_FOR * self._every_s
        return self._missing if is_current else None

    async def _remove(self, found: Plan) -> None:
        for route in found.routes:
            crash_point(point(ORPHANED_ROUTE, Moment.STARTING))
            await self._account.delete_route(route)
            crash_point(point(ORPHANED_ROUTE, Moment.DONE))
            _removed.inc()
        for script in found.scripts:
            crash_point(point(ORPHANED_SCRIPT, Moment.STARTING))
            await self._account.delete_script(script)
            crash_point(point(ORPHANED_SCRIPT, Moment.DONE))
            _removed.inc()

    async def _known(self, deployment_ids: set[str]) -> dict[str, Deployment]:
        async with self._database.transaction() as connection:
            states = await store.known(connection, sorted(deployment_ids))
        return {state.id: state for state in states}

    async def _others_scripts(
        self, unknown: list[OwnRoute], scripts: list[ListedScript]
    ) -> set[str]:
        """Return the scripts of these routes that exist and are not listed as ours."""
        unlisted = {route.script for route in unknown} - {script.name for script in scripts}
        return {name for name in unlisted if await self._account.script_exists(name)}

    async def _require_newest(self, agent_id: str) -> None:
        """Raise TablesBehind where the newest fact about this agent is not in the event table."""
        subject = subjects.event("*", "deployment", agent_id)
        try:
            message = await self._bus.js.get_last_msg(subjects.EVENTS, subject)
        except NotFoundError:
            return
        event_id = wire.decode(message.data or b"", Envelope).event_id
        async with self._database.transaction() as connection:
            query = select(events_table.c.event_id).where(events_table.c.event_id == event_id)
            if (await connection.execute(query)).scalar_one_or_none() is None:
                raise TablesBehind(
                    f"the newest fact about {agent_id} is not in the tables: the deployer is behind"
                    " the streams"
                )


_FAILURES = (ProviderError, TablesBehind, Unavailable, NatsError, TimeoutError)


def _failed(error: Exception) -> None:
    log.warning("reconciliation failed", reason=str(error), kind=type(error).__name__)


def _report(found: Plan, *, removed: bool) -> ReconcileReply:
    scripts = [script.name for script in found.scripts]
    routes = [route.pattern for route in found.routes]
    left_out = sum(max(0, len(it) - LISTED) for it in (scripts, routes, found.missing))
    return ReconcileReply(
        scripts=tuple(scripts[:LISTED]),
        routes=tuple(routes[:LISTED]),
        missing=tuple(found.missing[:LISTED]),
        left_out=left_out,
        removed=removed,
    )
