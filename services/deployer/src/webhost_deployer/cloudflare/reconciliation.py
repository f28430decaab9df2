"""Reconciliation: removes, every few minutes, what no deployment owns.

Consumes: the provider's listing, then the deployer's own rows (in this order: what was made in
between is not seen as nobody's). Guarantees: one sweep at a time across all deployers; only this
installation's scripts and the routes that lead to them are touched; nothing is removed while the
stream knows a deployment that the tables do not, since they are then older than it.
On replay: a sweep may be repeated at any time.
"""

import asyncio

import psycopg
import structlog
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from prometheus_client import Counter, Gauge
from webhost_contracts import subjects
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Unavailable

from webhost_deployer import store
from webhost_deployer.cloudflare.inventory import ListedScript
from webhost_deployer.cloudflare.reconcile import Plan, deployments_of, plan
from webhost_deployer.cloudflare.scripts import tagged
from webhost_deployer.locks import held
from webhost_deployer.model import Deployment
from webhost_deployer.provider import Inventory, ProviderError

log = structlog.get_logger(__name__)

EVERY_S = 300.0

_removed = Counter("webhost_deployer_orphans_removed_total", "Scripts and routes of nobody")
_missing = Gauge("webhost_deployer_scripts_missing", "Live deployments whose script is gone")


class TablesBehind(Exception):
    """The stream knows a deployment that the tables do not: what is nobody's is not known."""


class Reconciliation:
    """Reconciles one provider."""

    def __init__(self, database: Database, bus: Bus, inventory: Inventory) -> None:
        self._database = database
        self._bus = bus
        self._inventory = inventory

    async def run(self) -> None:
        """Reconciliation for ever; what stands in the way is logged, and tried again next time."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                async with held(self._database.dsn, "sweep") as lock:
                    if lock is not None:
                        await self.once()
            except (
                ProviderError,
                TablesBehind,
                Unavailable,
                NatsError,
                psycopg.OperationalError,
                OSError,
            ) as error:
                log.warning("not reconciled", reason=str(error), kind=type(error).__name__)

    async def once(self) -> Plan:
        """Reconcile now; return what was done. Raises ProviderError or TablesBehind."""
        listed_at_ms = now_ms()
        scripts = await self._inventory.list_scripts()
        routes = await self._inventory.list_routes()
        by_deployment = deployments_of(scripts)
        known = await self._known(list(by_deployment))
        for deployment_id, script in by_deployment.items():
            if deployment_id not in known and await self._on_stream(deployment_id, script):
                raise TablesBehind(f"{deployment_id} is on the stream and not in the tables")
        found = plan(scripts, routes, known, listed_at_ms)
        for route in found.routes:
            await self._inventory.delete_route(route)
        for script in found.scripts:
            await self._inventory.delete_script(script)
        _removed.inc(len(found.routes) + len(found.scripts))
        _missing.set(len(found.missing))
        if found.routes or found.scripts or found.missing:
            log.warning(
                "reconciled",
                scripts=[script.name for script in found.scripts],
                routes=[route.pattern for route in found.routes],
                missing=list(found.missing),
            )
        return found

    async def _known(self, deployment_ids: list[str]) -> dict[str, Deployment]:
        async with self._database.transaction() as connection:
            states = await store.known(connection, deployment_ids)
        return {state.id: state for state in states}

    async def _on_stream(self, deployment_id: str, script: ListedScript) -> bool:
        user_id = tagged(script.tags, "user") or ""
        subject = subjects.event(user_id, "deployment", deployment_id)
        try:
            await self._bus.js.get_last_msg(subjects.EVENTS, subject)
        except NotFoundError:
            return False
        return True
