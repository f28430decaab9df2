"""What the deployer does with a command: it records the work, and wakes the runner.

Consumes: Deploy, TearDown, TearDownAgent. Emits: `deployment.started.v1`,
`deployment.teardown_scheduled.v1`, `teardown.started.v1`; `teardown.finished.v1` behind that where
the agent never had a deployment; `deployment.failed.v1` where the agent is deleted already, or
where a deploy command became a dead letter.
Guarantees: what is recorded survives; one transaction per command.
On replay: if the deployment is known, the teardown has begun, or an earlier date applies, nothing
changes.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.commands import Command, CommandIds, Deploy, TearDown, TearDownAgent
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStarted,
    DeploymentTeardownScheduled,
    TeardownStarted,
)
from webhost_contracts.events.base import Event
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Permanent
from webhost_kit.process import tracing
from webhost_kit.process.crashpoints import crash_point

from webhost_deployer import decisions, store
from webhost_deployer.crash_points import Moment, fact_point
from webhost_deployer.model import AgentTeardown, Cause, Deployment
from webhost_deployer.secrets import store as secrets

T = TypeVar("T")


class Handlers:
    """The commands' handlers. New deployments go into this namespace of their provider's."""

    def __init__(
        self,
        database: Database,
        newest_key_version: int,
        namespace: str | None,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._key_version = newest_key_version
        self._namespace = namespace
        self._wake = wake

    async def deploy(self, command: Deploy) -> None:
        """Put one deployment on its runtime provider."""

        async def work(connection: AsyncConnection) -> None:
            await store.lock_agent(connection, command.agent_id)
            if await store.load(connection, command.deployment_id) is not None:
                return
            deleted = await store.teardown_of(connection, command.agent_id) is not None
            state = Deployment(
                id=command.deployment_id,
                user_id=command.user_id,
                agent_id=command.agent_id,
                cause=_cause(command),
            )
            events = decisions.begin(
                command, self._key_version, self._namespace, agent_deleted=deleted
            )
            await store.append(connection, state, events, now_ms())

        await self._record(DeploymentStarted, work)
        self._wake()

    async def deploy_is_dead(self, ids: CommandIds) -> None:
        """Fail the deployment of a dead-lettered command, so that nobody waits for it."""
        deployment_id, user_id, agent_id = ids.deployment_id, ids.user_id, ids.agent_id
        if deployment_id is None or user_id is None or agent_id is None:
            return

        async def work(connection: AsyncConnection) -> None:
            await store.lock_agent(connection, agent_id)
            if await store.load(connection, deployment_id) is not None:
                return
            state = Deployment(
                id=deployment_id,
                user_id=user_id,
                agent_id=agent_id,
                cause=Cause(request_id=ids.request_id, traceparent=tracing.traceparent()),
            )
            failed = decisions.refuse(agent_id, decisions.NOT_HANDLED)
            await store.append(connection, state, [failed], now_ms())

        await self._record(DeploymentFailed, work)

    async def tear_down(self, command: TearDown) -> None:
        """Remove a retired deployment from its provider, at the given time."""

        async def work(connection: AsyncConnection) -> None:
            await store.lock_agent(connection, command.agent_id)
            state = await store.load(connection, command.deployment_id)
            if state is None:
                raise Permanent(f"no such deployment: {command.deployment_id}")
            await _schedule_teardown(connection, state, command.not_before_ms)

        await self._record(DeploymentTeardownScheduled, work)
        self._wake()

    async def tear_down_agent(self, command: TearDownAgent) -> None:
        """Stop all work on a deleted agent; remove its deployments, secrets and sessions."""

        async def work(connection: AsyncConnection) -> bool:
            await store.lock_agent(connection, command.agent_id)
            if await store.teardown_of(connection, command.agent_id) is not None:
                return False
            now = now_ms()
            state = AgentTeardown(
                agent_id=command.agent_id, user_id=command.user_id, cause=_cause(command)
            )
            deployments = await store.of_agent(connection, command.agent_id)
            events = decisions.begin_teardown(command.agent_id, deployed=bool(deployments))
            await store.append_teardown(connection, state, events, now)
            await secrets.forget(connection, command.agent_id)
            for deployment in deployments:
                await _schedule_teardown(connection, deployment, now)
            return bool(deployments)

        if await self._record(TeardownStarted, work):
            self._wake()

    async def _record(
        self, first: type[Event], work: Callable[[AsyncConnection], Awaitable[T]]
    ) -> T:
        crash_point(fact_point(first, Moment.RECORDING))
        done = await self._database.retry_conflicts(work)
        crash_point(fact_point(first, Moment.RECORDED))
        return done


async def _schedule_teardown(
    connection: AsyncConnection, state: Deployment, not_before_ms: int
) -> None:
    events = decisions.schedule_teardown(state, not_before_ms)
    if events:
        await store.append(connection, state, events, now_ms())


def _cause(command: Command) -> Cause:
    return Cause(
        request_id=command.request_id,
        traceparent=tracing.traceparent() or command.traceparent,
        causation_id=command.causation_id,
    )
