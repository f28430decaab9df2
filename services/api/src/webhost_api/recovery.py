"""Recovers the api's own facts after Postgres was restored to an earlier time.

Consumes: own facts (`user.*`, `agent.*`, `key.*`) that the event table lacks, each aggregate's in
the order of their versions. Emits: nothing; the caller inserts the event rows.
Guarantees: state rows are what they were before the restore, but for what other services' facts
add, which the reactor folds again from its own restored checkpoint.
On replay: a fact at or below the state's version changes nothing.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import EVENT_TYPES, Event, UserRegistered
from webhost_contracts.events.base import by_name
from webhost_kit.eventsourcing.facts import Fact

from webhost_api import model, store, users
from webhost_api.keys import store as keys
from webhost_api.keys.model import ApiKey
from webhost_api.keys.model import evolve as evolve_key
from webhost_api.model import Agent
from webhost_api.tables import agents

KINDS = ("user", "agent", "key")
OWN_SUBJECTS = tuple(map(subjects.events_of_kind, KINDS))
TYPES = by_name(*(kind for kind in EVENT_TYPES if kind.kind() in KINDS))


async def recover(connection: AsyncConnection, fact: Fact) -> None:
    """Evolve the state rows by one own fact.

    Raises RuntimeError if a fact before it is missing, TypeError if the fact is not the api's own.
    """
    envelope = fact.envelope
    if isinstance(fact.event, UserRegistered):
        await users.insert_user(connection, envelope.user_id, fact.event, envelope.occurred_at_ms)
        return
    if fact.event.kind() == "key":
        await _recover_key(connection, fact)
        return
    agent = await store.load(connection, envelope.aggregate_id, _deployment_of(fact.event))
    if agent is None:
        agent = Agent(id=envelope.aggregate_id, user_id=envelope.user_id)
    if agent.version >= envelope.version:
        return
    if agent.version + 1 < envelope.version:
        raise RuntimeError(f"{agent.id}: a fact before version {envelope.version} is missing")
    after = model.evolve(agent, envelope, fact.event)
    if after.deleted_at_ms is None:
        await _release_name(connection, after)
    await store.save(connection, agent, after)
    await _return_name(connection, after.user_id)


async def _recover_key(connection: AsyncConnection, fact: Fact) -> None:
    envelope = fact.envelope
    key = await keys.load(connection, envelope.aggregate_id, lock=True)
    if key is None:
        key = ApiKey(id=envelope.aggregate_id, user_id=envelope.user_id)
    if key.version >= envelope.version:
        return
    if key.version + 1 < envelope.version:
        raise RuntimeError(f"{key.id}: a fact before version {envelope.version} is missing")
    await keys.save(connection, key, evolve_key(key, envelope, fact.event))


def _deployment_of(event: Event) -> str | None:
    return getattr(event, "deployment_id", None)


async def _release_name(connection: AsyncConnection, agent: Agent) -> None:
    """Free the agent's name: another agent that holds it loses it, for now or for good.

    Facts of different aggregates have no order. Until all are recovered, an agent without its name
    has its id in the column.
    """
    await connection.execute(
        sa.update(agents)
        .where(
            agents.c.user_id == agent.user_id,
            agents.c.name == agent.name,
            agents.c.agent_id != agent.id,
            agents.c.deleted_at_ms.is_(None),
        )
        .values(name=agents.c.agent_id)
    )


async def _return_name(connection: AsyncConnection, user_id: str) -> None:
    """Return the name to one of the agents that lost it, if it is free now."""
    other = agents.alias()
    name = agents.c.state["name"].astext
    taken = sa.exists().where(
        other.c.user_id == user_id, other.c.name == name, other.c.deleted_at_ms.is_(None)
    )
    newest = (
        sa.select(agents.c.agent_id)
        .where(
            agents.c.user_id == user_id,
            agents.c.name == agents.c.agent_id,
            agents.c.deleted_at_ms.is_(None),
            ~taken,
        )
        .order_by(agents.c.agent_id.desc())
        .limit(1)
    )
    await connection.execute(
        sa.update(agents).where(agents.c.agent_id.in_(newest)).values(name=name)
    )
