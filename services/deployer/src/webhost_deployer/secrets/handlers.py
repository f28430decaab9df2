"""What the deployer does when the api hands it secrets.

Consumes: SetSecretsRequest, DeleteSecretsRequest, SecretsRequest. Emits: `secret.set.v1`,
`secret.deleted.v1`. Guarantees: the sealed values, the fact and the work of bringing them to every
kept deployment are one transaction; nothing is opened here.
On a repeat: an operation that was done in the last day, whatever became of its values since, and a
deletion of what has no value, change nothing.
"""

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.events import SecretDeleted, SecretSet
from webhost_contracts.rpc import (
    ChangeSecretsReply,
    ChangeSecretsRequest,
    DeleteSecretsRequest,
    SecretsReply,
    SecretsRequest,
    SetSecretsRequest,
)
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.store import EventMetadata
from webhost_kit.process import tracing
from webhost_kit.process.crashpoints import crash_point

from webhost_deployer.crash_points import Moment, fact_point
from webhost_deployer.secrets import store
from webhost_deployer.secrets.model import AgentSecrets
from webhost_deployer.store import lock_agent, teardown_of

DAY_MS = 24 * 3600 * 1000
GONE = ChangeSecretsReply(gone=True)


class SecretHandlers:
    """The requests' handlers."""

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake

    async def secrets(self, request: SecretsRequest) -> SecretsReply:
        """Say which of the agent's secrets have a value."""
        async with self._database.snapshot() as connection:
            state = await store.load(connection, request.agent_id)
            if state is None or state.user_id != request.user_id:
                return SecretsReply(version=0, set_at_ms={})
            set_at_ms = await store.set_at_ms(connection, request.agent_id)
        return SecretsReply(version=state.version, set_at_ms=set_at_ms)

    async def set_secrets(self, request: SetSecretsRequest) -> ChangeSecretsReply:
        """Keep sealed values, and let them be brought to the agent's Workers."""

        async def work(connection: AsyncConnection) -> ChangeSecretsReply:
            state = await _changeable(connection, request)
            if state is None:
                return GONE
            done = await store.done_version(connection, request.agent_id, request.operation)
            if done is not None:
                return ChangeSecretsReply(version=done)
            until_ms = await store.full_until(connection, state, request.changes_a_day, DAY_MS)
            if until_ms is not None:
                return ChangeSecretsReply(full_until_ms=until_ms)
            event = SecretSet(agent_id=request.agent_id, keys=tuple(sorted(request.sealed)))
            metadata = _metadata(request)
            state = await store.append(connection, state, event, metadata)
            await store.put(
                connection, request.agent_id, request.sealed, state.version, metadata.at_ms
            )
            await store.record_done(
                connection, request.agent_id, request.operation, state.version, metadata.at_ms
            )
            await store.mark_lagging(connection, request.agent_id, request.active_deployment_id)
            return ChangeSecretsReply(version=state.version)

        crash_point(fact_point(SecretSet, Moment.RECORDING))
        reply = await self._database.retry_conflicts(work)
        crash_point(fact_point(SecretSet, Moment.RECORDED))
        self._wake()
        return reply

    async def delete_secrets(self, request: DeleteSecretsRequest) -> ChangeSecretsReply:
        """Forget values, and let them be removed from the agent's Workers."""

        async def work(connection: AsyncConnection) -> ChangeSecretsReply:
            state = await _changeable(connection, request)
            if state is None:
                return GONE
            keys = await store.to_delete(connection, request.agent_id, request.keys)
            if not keys:
                return ChangeSecretsReply(version=state.version)
            metadata = _metadata(request)
            event = SecretDeleted(agent_id=request.agent_id, keys=keys)
            state = await store.append(connection, state, event, metadata)
            await store.put(
                connection,
                request.agent_id,
                dict.fromkeys(keys),
                state.version,
                metadata.at_ms,
            )
            await store.prune(connection, request.agent_id)
            await store.mark_lagging(connection, request.agent_id, request.active_deployment_id)
            return ChangeSecretsReply(version=state.version)

        crash_point(fact_point(SecretDeleted, Moment.RECORDING))
        reply = await self._database.retry_conflicts(work)
        crash_point(fact_point(SecretDeleted, Moment.RECORDED))
        self._wake()
        return reply


async def _changeable(
    connection: AsyncConnection, request: ChangeSecretsRequest
) -> AgentSecrets | None:
    """Return the agent's secrets, locked; None where it is deleted, or another user's."""
    await lock_agent(connection, request.agent_id)
    if await teardown_of(connection, request.agent_id) is not None:
        return None
    state = await store.load(connection, request.agent_id)
    if state is None:
        return AgentSecrets(agent_id=request.agent_id, user_id=request.user_id)
    return state if state.user_id == request.user_id else None


def _metadata(request: ChangeSecretsRequest) -> EventMetadata:
    return EventMetadata(
        actor=request.actor,
        request_id=request.request_id,
        traceparent=tracing.traceparent() or request.traceparent,
    )
