"""What the deployer does with a command: it records the work, and wakes the runner.

Consumes: Deploy, TearDown, TearDownAgent. Emits: `deployment.started.v1`; and at once
`deployment.failed.v1` where the agent is deleted already or the command died.
Guarantees: what is recorded survives; one transaction per command.
On replay: a deployment that is known, and an instruction that was given, change nothing.
"""

from collections.abc import Callable

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.commands import Deploy, TearDown, TearDownAgent
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.errors import Permanent

from webhost_deployer import decisions, store
from webhost_deployer.model import Deployment


class Handlers:
    """The commands' handlers."""

    def __init__(self, database: Database, newest_key_version: int, wake: Callable[[], None]):
        self._database = database
        self._key_version = newest_key_version
        self._wake = wake

    async def deploy(self, command: Deploy) -> None:
        """Take the deployment on; the runner does the work."""
        await self._begin(command, None)

    async def deploy_died(self, command: Deploy, reason: str) -> None:
        """Fail a deployment that could not be taken on, so that nobody waits for it."""
        await self._begin(command, "The deploy command could not be handled.")

    async def tear_down(self, command: TearDown) -> None:
        """Note from when on nothing of a retired deployment shall be left."""

        async def work(connection: AsyncConnection) -> None:
            await store.lock_agent(connection, command.agent_id)
            state = await store.load(connection, command.deployment_id)
            if state is None:
                raise Permanent(f"no such deployment: {command.deployment_id}")
            await _instruct(connection, state, command.not_before_ms)

        await self._database.retry_conflicts(work)
        self._wake()

    async def tear_down_agent(self, command: TearDownAgent) -> None:
        """Put a tombstone on the agent and let all of its deployments go."""

        async def work(connection: AsyncConnection) -> None:
            await store.lock_agent(connection, command.agent_id)
            now = now_ms()
            await store.put_tombstone(connection, command.agent_id, now)
            for state in await store.of_agent(connection, command.agent_id):
                await _instruct(connection, state, now)

        await self._database.retry_conflicts(work)
        self._wake()

    async def _begin(self, command: Deploy, refusal: str | None) -> None:
        async def work(connection: AsyncConnection) -> None:
            await store.lock_agent(connection, command.agent_id)
            if await store.load(connection, command.deployment_id) is not None:
                return
            deleted = await store.is_deleted(connection, command.agent_id)
            reason = refusal or (decisions.AGENT_DELETED if deleted else None)
            events = decisions.begin(command, self._key_version, reason)
            await store.record(connection, Deployment(command=command), events, now_ms())

        await self._database.retry_conflicts(work)
        self._wake()


async def nothing_to_tell(command: TearDown | TearDownAgent, reason: str) -> None:
    """Leave a dead teardown to the operator: it is parked, and can be replayed."""


async def _instruct(connection: AsyncConnection, state: Deployment, at_ms: int) -> None:
    earlier = state.tear_down_at_ms
    if state.ended or (earlier is not None and earlier <= at_ms):
        return
    await store.save(connection, replace(state, tear_down_at_ms=at_ms))
