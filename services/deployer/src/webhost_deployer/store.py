"""Deployments and teardowns as rows: loaded, due, saved; `append` appends facts with them.

Each function runs in its caller's transaction. A row is the fold of its aggregate's facts; the
columns beside `state` are for queries, and say when a failed purge is tried again, and when a
deployment's first step was first begun.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import (
    and_,
    cast,
    column,
    exists,
    func,
    not_,
    or_,
    select,
    table,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events.base import Event
from webhost_kit.clock import now_ms
from webhost_kit.database.locks import session_of
from webhost_kit.eventsourcing.aggregates import Aggregate
from webhost_kit.eventsourcing.store import EventMetadata

from webhost_deployer import saga
from webhost_deployer.model import (
    FINAL,
    AgentTeardown,
    Deployment,
    Phase,
    evolve,
    evolve_teardown,
)
from webhost_deployer.queue import DueAgent
from webhost_deployer.tables import agent_teardowns, deployments, front_updates, secret_updates

ACTOR = "service:deployer"
DUE_LIMIT = 1_000


def agent_lock(agent_id: str) -> str:
    """Return the name of the lock under which an agent's work is done."""
    return f"agent {agent_id}"


_NOTHING_RUNS = not_(
    exists().where(
        deployments.c.agent_id == agent_teardowns.c.agent_id,
        deployments.c.phase.not_in(FINAL),
    )
)

_LOCK_SESSION = session_of(agent_lock(""))
_SESSIONS = table(
    "pg_stat_activity", column("application_name"), column("datname"), column("usename")
)
_IN_WORK = select(func.substr(_SESSIONS.c.application_name, len(_LOCK_SESSION) + 1)).where(
    _SESSIONS.c.datname == func.current_database(),
    _SESSIONS.c.usename == func.current_user(),
    _SESSIONS.c.application_name.startswith(_LOCK_SESSION, autoescape=True),
)
"""The agents that some deployer holds the lock of: its session's name says which, and ends with it.
"""


async def lock_agent(connection: AsyncConnection, agent_id: str) -> None:
    """Let no other command about this agent be handled until the transaction ends."""
    key = func.hashtextextended(f"agent command {agent_id}", 0)
    await connection.execute(select(func.pg_advisory_xact_lock(key)))


async def load(connection: AsyncConnection, deployment_id: str) -> Deployment | None:
    """Return the deployment, locked until the transaction ends."""
    query = select(deployments.c.state).where(deployments.c.deployment_id == deployment_id)
    found = (await connection.execute(query.with_for_update())).scalar_one_or_none()
    return None if found is None else msgspec.convert(found, Deployment)


async def of_agent(connection: AsyncConnection, agent_id: str) -> list[Deployment]:
    """Return the agent's deployments, oldest first, locked until the transaction ends."""
    query = select(deployments.c.state).where(deployments.c.agent_id == agent_id)
    found = await connection.execute(query.order_by(deployments.c.deployment_id).with_for_update())
    return msgspec.convert(list(found.scalars()), list[Deployment])


async def known(connection: AsyncConnection, deployment_ids: Sequence[str]) -> list[Deployment]:
    """Return those of these deployments that are known, and all that are live."""
    query = select(deployments.c.state).where(
        or_(deployments.c.phase == Phase.LIVE, deployments.c.deployment_id.in_(deployment_ids))
    )
    return msgspec.convert(list((await connection.execute(query)).scalars()), list[Deployment])


async def save(connection: AsyncConnection, state: Deployment) -> None:
    """Write the state row."""
    statement = insert(deployments).values(
        deployment_id=state.id,
        user_id=state.user_id,
        agent_id=state.agent_id,
        phase=state.phase,
        due_at_ms=saga.due_at(state),
        state=msgspec.to_builtins(state),
    )
    changed = {name: statement.excluded[name] for name in ("phase", "due_at_ms", "state")}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["deployment_id"], set_=changed)
    )


async def append(
    connection: AsyncConnection, state: Deployment, events: Sequence[Event], at_ms: int
) -> Deployment:
    """Append facts about the deployment after `state`, and write its row.

    Raises VersionConflict when another decision was recorded first.
    """
    return (await _DEPLOYMENTS.append(connection, state, events, _metadata(state, at_ms))).state


async def teardown_of(connection: AsyncConnection, agent_id: str) -> AgentTeardown | None:
    """Return the agent's teardown; where there is one, the agent is deleted."""
    query = select(agent_teardowns.c.state).where(agent_teardowns.c.agent_id == agent_id)
    found = (await connection.execute(query)).scalar_one_or_none()
    return None if found is None else msgspec.convert(found, AgentTeardown)


async def save_teardown(connection: AsyncConnection, state: AgentTeardown, due_at_ms: int) -> None:
    """Write the state row; unless it is finished, it is due at `due_at_ms`."""
    statement = insert(agent_teardowns).values(
        agent_id=state.agent_id,
        user_id=state.user_id,
        tries=0,
        due_at_ms=None if state.finished else due_at_ms,
        state=msgspec.to_builtins(state),
    )
    changed = {name: statement.excluded[name] for name in ("tries", "due_at_ms", "state")}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["agent_id"], set_=changed)
    )


async def append_teardown(
    connection: AsyncConnection, state: AgentTeardown, events: Sequence[Event], at_ms: int
) -> None:
    """Append facts about the teardown after `state`, and write its row.

    Raises VersionConflict when another was recorded first.
    """
    await _TEARDOWNS.append(connection, state, events, _metadata(state, at_ms))


async def postpone_purge(
    connection: AsyncConnection, agent_id: str, tries: int, due_at_ms: int
) -> None:
    """Record when the agent's purge is tried again, after this many failed attempts."""
    await connection.execute(
        update(agent_teardowns)
        .where(agent_teardowns.c.agent_id == agent_id, agent_teardowns.c.due_at_ms.is_not(None))
        .values(tries=tries, due_at_ms=due_at_ms)
    )


async def due_agents(connection: AsyncConnection, now_ms: int, per_user: int) -> list[DueAgent]:
    """Return the agents with due work: all that a deployer has in work, and of those that wait each
    user's `per_user` longest waiting ones, as far as DUE_LIMIT goes: first one of each user's.
    """
    due = union_all(
        select(deployments.c.user_id, deployments.c.agent_id, deployments.c.due_at_ms).where(
            deployments.c.due_at_ms <= now_ms
        ),
        select(
            agent_teardowns.c.user_id, agent_teardowns.c.agent_id, agent_teardowns.c.due_at_ms
        ).where(and_(agent_teardowns.c.due_at_ms <= now_ms, _NOTHING_RUNS)),
        select(
            secret_updates.c.user_id, secret_updates.c.agent_id, secret_updates.c.due_at_ms
        ).where(secret_updates.c.due_at_ms <= now_ms),
        select(front_updates.c.user_id, front_updates.c.agent_id, front_updates.c.due_at_ms).where(
            front_updates.c.due_at_ms <= now_ms
        ),
    ).subquery()
    since = func.min(due.c.due_at_ms)
    in_work = due.c.agent_id.in_(_IN_WORK)
    found = (
        select(
            due.c.user_id,
            due.c.agent_id,
            in_work.label("in_work"),
            since.label("since"),
            func.row_number()
            .over(partition_by=(due.c.user_id, in_work), order_by=since)
            .label("number"),
        )
        .group_by(due.c.user_id, due.c.agent_id)
        .subquery()
    )
    query = (
        select(found.c.user_id, found.c.agent_id, found.c.in_work)
        .where(or_(found.c.in_work, found.c.number <= per_user))
        .order_by(found.c.in_work.desc(), found.c.number, found.c.since)
        .limit(DUE_LIMIT)
    )
    return [DueAgent(*row) for row in await connection.execute(query)]


async def holders_before(connection: AsyncConnection, state: Deployment) -> int:
    """Return how many deployments have a place at the provider before this one.

    These are the live ones, those that went past validation, and those with a smaller id: of two
    that are validated at the same time, one sees the other.
    """
    query = (
        select(func.count())
        .select_from(deployments)
        .where(
            deployments.c.phase.not_in(FINAL),
            deployments.c.deployment_id != state.id,
            or_(
                deployments.c.phase != Phase.DEPLOYING,
                deployments.c.state["done"] != cast([], JSONB),
                deployments.c.deployment_id < state.id,
            ),
        )
    )
    return (await connection.execute(query)).scalar_one()


async def due_deployment(
    connection: AsyncConnection, agent_id: str, now_ms: int
) -> tuple[Deployment, int | None] | None:
    """Return the agent's oldest deployment that something is to be done for, and when its first
    step was first begun.
    """
    query = select(deployments.c.state, deployments.c.began_at_ms).where(
        deployments.c.agent_id == agent_id, deployments.c.due_at_ms <= now_ms
    )
    found = await connection.execute(query.order_by(deployments.c.deployment_id).limit(1))
    row = found.one_or_none()
    return None if row is None else (msgspec.convert(row.state, Deployment), row.began_at_ms)


async def set_began(connection: AsyncConnection, deployment_id: str, at_ms: int) -> None:
    """Record that the first step of a deployment is begun."""
    await connection.execute(
        update(deployments)
        .where(deployments.c.deployment_id == deployment_id)
        .values(began_at_ms=at_ms)
    )


async def due_purge(
    connection: AsyncConnection, agent_id: str, now_ms: int
) -> tuple[AgentTeardown, int] | None:
    """Return the agent's teardown, and its failed purges, when nothing of it runs any more."""
    query = select(agent_teardowns.c.state, agent_teardowns.c.tries).where(
        agent_teardowns.c.agent_id == agent_id,
        agent_teardowns.c.due_at_ms <= now_ms,
        _NOTHING_RUNS,
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else (msgspec.convert(row.state, AgentTeardown), row.tries)


async def _save(connection: AsyncConnection, _: Deployment, after: Deployment) -> None:
    await save(connection, after)


async def _save_due(connection: AsyncConnection, _: AgentTeardown, after: AgentTeardown) -> None:
    await save_teardown(connection, after, now_ms())


_DEPLOYMENTS = Aggregate(evolve, _save)
_TEARDOWNS = Aggregate(evolve_teardown, _save_due)


def _metadata(state: Deployment | AgentTeardown, at_ms: int) -> EventMetadata:
    return EventMetadata(
        actor=ACTOR,
        request_id=state.cause.request_id,
        traceparent=state.cause.traceparent,
        causation_id=state.cause.causation_id,
        at_ms=at_ms,
    )
