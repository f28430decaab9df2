"""The route table: folded into the gateway's own rows, and followed in memory.

Consumes: `agent.*`, `deployment.*`, `account.*` and `key.*` of EVENTS.
Guarantees: the memory starts from rows and checkpoint of one snapshot, and never goes back on a
stream that goes on. On another stream it starts again, and is not usable until it has caught up.
On replay: versions that were seen are skipped.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.api_keys import KeyLimits
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.upsert import upsert
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.memory import InMemoryProjection
from webhost_kit.eventsourcing.projector import Projector

from webhost_gateway.routing.model import (
    SUBJECTS,
    TYPES,
    Account,
    Agent,
    Deployment,
    Key,
    RouteTable,
)
from webhost_gateway.tables import routed_accounts, routed_agents, routed_deployments, routed_keys

NAME = "gateway.routes"


def projector(database: Database, bus: Bus) -> Projector:
    """Return what keeps the rows."""
    return Projector(NAME, database, bus, subjects.EVENTS, SUBJECTS, TYPES, fold, reset=reset)


async def reset(connection: AsyncConnection) -> None:
    """Remove the rows: all of them are made from the stream."""
    for table in (routed_agents, routed_deployments, routed_accounts, routed_keys):
        await connection.execute(sa.delete(table))


def memory(bus: Bus, database: Database, routes: RouteTable) -> InMemoryProjection:
    """Return what keeps the memory."""

    def fold_one(fact: Fact) -> None:
        routes.evolve(fact.envelope, fact.event)

    return InMemoryProjection(
        NAME,
        database,
        bus,
        subjects.EVENTS,
        SUBJECTS,
        TYPES,
        fold_one,
        lambda connection, anew: load(connection, routes, anew=anew),
    )


async def load(connection: AsyncConnection, routes: RouteTable, *, anew: bool = False) -> None:
    """Take over what the rows hold that is newer; with `anew`, all of it and nothing else.

    What ended long ago is forgotten.
    """
    rows = await _rows(connection, None)
    if anew:
        routes.clear()
    routes.merge(rows)
    routes.forget(now_ms())


async def fold(connection: AsyncConnection, facts: Sequence[Fact], _: Checkpoint) -> None:
    """Write what these facts mean."""
    agents = {f.envelope.aggregate_id for f in facts if f.event.kind() == "agent"}
    deployments = {f.envelope.aggregate_id for f in facts if f.event.kind() == "deployment"}
    accounts = {f.envelope.user_id for f in facts if f.event.kind() == "account"}
    keys = {f.envelope.aggregate_id for f in facts if f.event.kind() == "key"}
    routes = await _rows(connection, (agents, deployments, accounts, keys))
    for fact in facts:
        routes.evolve(fact.envelope, fact.event)
    for table, states in (
        (routed_agents, routes.agents),
        (routed_deployments, routes.deployments),
        (routed_accounts, routes.accounts),
        (routed_keys, routes.keys),
    ):
        [key] = table.primary_key
        rows = [{key.name: name} | msgspec.to_builtins(state) for name, state in states.items()]
        await upsert(connection, table, rows)


async def _rows(
    connection: AsyncConnection, only: tuple[set[str], set[str], set[str], set[str]] | None
) -> RouteTable:
    agents, deployments, accounts, keys = only or (None, None, None, None)
    routes = RouteTable()
    for row in await connection.execute(_of(routed_agents, agents)):
        routes.agents[row.agent_id] = Agent(
            row.version,
            row.user_id,
            row.disabled,
            row.deployment_id,
            row.deleted_at_ms,
            row.name,
        )
    for row in await connection.execute(_of(routed_deployments, deployments)):
        routes.deployments[row.deployment_id] = Deployment(
            row.version,
            row.runtime_provider,
            row.invoke_url,
            row.ended_at_ms,
            row.key_version,
            row.key_generation,
        )
    for row in await connection.execute(_of(routed_accounts, accounts)):
        routes.accounts[row.user_id] = Account(row.version, row.tier, row.disabled)
    for row in await connection.execute(_of(routed_keys, keys)):
        routes.keys[row.key_id] = Key(
            row.version,
            row.user_id,
            tuple(row.scopes),
            None if row.agent_ids is None else tuple(row.agent_ids),
            row.expires_at_ms,
            row.limits and msgspec.convert(row.limits, KeyLimits),
            row.secret_hash,
            row.previous_hash,
            row.previous_expires_at_ms,
            row.revoked_at_ms,
        )
    return routes


def _of(table: sa.Table, keys: set[str] | None) -> sa.Select[Any]:
    query = sa.select(table)
    if keys is None:
        return query
    key = next(iter(table.primary_key))
    return query.where(key == sa.any_(sa.bindparam("keys", list(keys), sa.ARRAY(sa.Text))))
