"""Deployments and teardowns as rows: loaded, due, saved; `record` appends facts with them.

Each function runs on the transaction of its caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import wire
from webhost_contracts.events.base import Event
from webhost_kit.errors import VersionConflict
from webhost_kit.eventsourcing.store import EventMetadata, append

from webhost_deployer import saga
from webhost_deployer.model import Deployment, evolve

ACTOR = "service:deployer"
DUE_LIMIT = 100

_NOTHING_RUNS = """NOT EXISTS (
    SELECT 1 FROM deployments AS d
    WHERE d.agent_id = t.agent_id AND d.phase NOT IN ('failed', 'torn_down'))"""


@dataclass(frozen=True)
class AgentTeardown:
    """A deleted agent whose sessions are still to be purged, after `tries` failed tries."""

    agent_id: str
    tries: int


async def lock_agent(connection: AsyncConnection, agent_id: str) -> None:
    """Let no other command about this agent be taken until the transaction ends."""
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('agent command ' || :id, 0))"),
        {"id": agent_id},
    )


async def load(connection: AsyncConnection, deployment_id: str) -> Deployment | None:
    """Return the deployment, locked until the transaction ends."""
    result = await connection.execute(
        text("SELECT state::text FROM deployments WHERE deployment_id = :id FOR UPDATE"),
        {"id": deployment_id},
    )
    state = result.scalar_one_or_none()
    return None if state is None else _decoded(state)


async def of_agent(connection: AsyncConnection, agent_id: str) -> list[Deployment]:
    """Return the agent's deployments, oldest first, locked until the transaction ends."""
    result = await connection.execute(
        text(
            "SELECT state::text FROM deployments WHERE agent_id = :id"
            " ORDER BY deployment_id FOR UPDATE"
        ),
        {"id": agent_id},
    )
    return [_decoded(state) for state in result.scalars()]


async def save(connection: AsyncConnection, state: Deployment) -> None:
    """Write the state row."""
    await connection.execute(
        text(
            """
            INSERT INTO deployments (deployment_id, agent_id, phase, due_at_ms, state)
            VALUES (:id, :agent_id, :phase, :due_at_ms, CAST(:state AS jsonb))
            ON CONFLICT (deployment_id) DO UPDATE
            SET phase = excluded.phase, due_at_ms = excluded.due_at_ms, state = excluded.state
            """
        ),
        {
            "id": state.id,
            "agent_id": state.command.agent_id,
            "phase": state.phase,
            "due_at_ms": saga.due_at(state),
            "state": wire.encode(state).decode(),
        },
    )


async def record(
    connection: AsyncConnection, state: Deployment, events: Sequence[Event], at_ms: int
) -> Deployment:
    """Append facts about the deployment, with its state row, behind the version of `state`.

    The api's instructions in the row are kept, as they may be newer than `state`. Raises
    VersionConflict when another decision was recorded first.
    """
    stored = await load(connection, state.id) or state
    if stored.version != state.version:
        raise VersionConflict(state.id)
    command = stored.command
    metadata = EventMetadata(
        actor=ACTOR,
        request_id=command.request_id,
        traceparent=command.traceparent,
        causation_id=command.causation_id,
        at_ms=at_ms,
    )
    await append(connection, state.id, command.user_id, stored.version, events, metadata)
    for event in events:
        stored = evolve(stored, event, at_ms)
    await save(connection, stored)
    return stored


async def due_agents(connection: AsyncConnection, now_ms: int) -> list[str]:
    """Return the agents that something is to be done for, the longest waiting first."""
    result = await connection.execute(
        text(
            f"""
            SELECT agent_id FROM (
                SELECT agent_id, due_at_ms FROM deployments WHERE due_at_ms <= :now
                UNION ALL
                SELECT agent_id, due_at_ms FROM agent_teardowns AS t
                WHERE due_at_ms <= :now AND {_NOTHING_RUNS}
            ) AS due GROUP BY agent_id ORDER BY min(due_at_ms) LIMIT :limit
            """  # noqa: S608 - our own words
        ),
        {"now": now_ms, "limit": DUE_LIMIT},
    )
    return list(result.scalars())


async def due_deployment(
    connection: AsyncConnection, agent_id: str, now_ms: int
) -> Deployment | None:
    """Return the agent's oldest deployment that something is to be done for."""
    result = await connection.execute(
        text(
            "SELECT state::text FROM deployments WHERE agent_id = :id AND due_at_ms <= :now"
            " ORDER BY deployment_id LIMIT 1"
        ),
        {"id": agent_id, "now": now_ms},
    )
    state = result.scalar_one_or_none()
    return None if state is None else _decoded(state)


async def known(connection: AsyncConnection, deployment_ids: Sequence[str]) -> list[Deployment]:
    """Return these deployments, as far as they are known, and all that are live."""
    result = await connection.execute(
        text(
            "SELECT state::text FROM deployments WHERE phase = 'live' OR deployment_id = ANY(:ids)"
        ),
        {"ids": list(deployment_ids)},
    )
    return [_decoded(state) for state in result.scalars()]


async def put_tombstone(connection: AsyncConnection, agent_id: str, now_ms: int) -> None:
    """Note that the agent is deleted; its sessions are to be purged. A repeat changes nothing."""
    await connection.execute(
        text(
            "INSERT INTO agent_teardowns (agent_id, deleted_at_ms, tries, due_at_ms)"
            " VALUES (:id, :now, 0, :now) ON CONFLICT (agent_id) DO NOTHING"
        ),
        {"id": agent_id, "now": now_ms},
    )


async def is_deleted(connection: AsyncConnection, agent_id: str) -> bool:
    """Say whether the agent has a tombstone."""
    result = await connection.execute(
        text("SELECT 1 FROM agent_teardowns WHERE agent_id = :id"), {"id": agent_id}
    )
    return result.scalar_one_or_none() is not None


async def due_teardown(
    connection: AsyncConnection, agent_id: str, now_ms: int
) -> AgentTeardown | None:
    """Return the agent's teardown when its sessions can go: nothing of it runs any more."""
    result = await connection.execute(
        text(
            "SELECT tries FROM agent_teardowns AS t"  # noqa: S608 - our own words
            f" WHERE agent_id = :id AND due_at_ms <= :now AND {_NOTHING_RUNS}"
        ),
        {"id": agent_id, "now": now_ms},
    )
    tries = result.scalar_one_or_none()
    return None if tries is None else AgentTeardown(agent_id, tries)


async def save_teardown(
    connection: AsyncConnection, teardown: AgentTeardown, due_at_ms: int | None
) -> None:
    """Note how the purge went: None when it is done, else when it is tried again."""
    await connection.execute(
        text("UPDATE agent_teardowns SET tries = :tries, due_at_ms = :due WHERE agent_id = :id"),
        {"id": teardown.agent_id, "tries": teardown.tries, "due": due_at_ms},
    )


def _decoded(state: str) -> Deployment:
    return msgspec.json.decode(state, type=Deployment)
