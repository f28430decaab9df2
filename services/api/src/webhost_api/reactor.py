"""What follows from others' facts: a deployment ended, was removed; a tier changed.

Consumes: `deployment.*` (of the deployer) and `account.*` (of billing) on EVENTS.
Emits: `agent.deployment_ended|activated|retired` on EVENTS, `TearDown` on COMMANDS.
Guarantees: the conclusions, the rows and the checkpoint are one transaction.
On replay: a fact at or below the version last folded of its aggregate changes nothing, and a
deployment ends once.
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids, subjects
from webhost_contracts.commands import TEAR_DOWN, TearDown
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentRetired,
    DeploymentSucceeded,
    DeploymentTornDown,
    Envelope,
    TierChanged,
)
from webhost_contracts.events.base import by_name
from webhost_kit.bus.connection import Bus
from webhost_kit.bus.reader import Checkpoint
from webhost_kit.database.engine import Database
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.eventsourcing.store import EventMetadata, new_id, send
from webhost_kit.process.crashpoints import crash_point

from webhost_api import decisions, model, store
from webhost_api.handlers import Recorded, record
from webhost_api.model import Agent, Deployment
from webhost_api.tables import accounts

ACTOR = "service:api"

_FILTERS = (subjects.events_of_kind("deployment"), subjects.events_of_kind("account"))
_TYPES = by_name(DeploymentSucceeded, DeploymentFailed, DeploymentTornDown, TierChanged)


class Reactor:
    """Folds what the others state, and concludes."""

    def __init__(self, *, keep_deployments: int, longest_call_ms: int) -> None:
        self._keep = keep_deployments
        self._longest_call_ms = longest_call_ms

    def projector(self, database: Database, bus: Bus) -> Projector:
        """Return the projector that runs this reactor."""
        return Projector("api.reactor", database, bus, subjects.EVENTS, _FILTERS, _TYPES, self.fold)

    async def fold(
        self, connection: AsyncConnection, facts: Sequence[Fact], _checkpoint: Checkpoint
    ) -> None:
        """Fold a batch of facts, in order."""
        for fact in facts:
            if isinstance(fact.event, TierChanged):
                await _tier_changed(connection, fact.envelope, fact.event)
            else:
                await self._deployment_fact(connection, fact)

    async def _deployment_fact(self, connection: AsyncConnection, fact: Fact) -> None:
        found = await _find(connection, fact)
        if found is None:
            return
        agent, deployment = found
        deployment = replace(deployment, fact_version=fact.envelope.version)
        match fact.event:
            case DeploymentSucceeded() as event:
                deployment = model.reached(deployment, event.worker_name, event.invoke_url)
                conclusions = decisions.conclude_succeeded(agent, deployment.id, self._keep)
            case DeploymentFailed() as event:
                conclusions = decisions.conclude_failed(agent, deployment.id, event.error)
            case _:
                deployment = model.torn_down(deployment)
                conclusions = []
        await store.save_deployment(connection, deployment)
        recorded = await record(
            connection,
            model.with_deployment(agent, deployment),
            conclusions,
            _because_of(fact.envelope),
        )
        await self._tear_down_retired(connection, recorded)
        if isinstance(fact.event, DeploymentSucceeded):
            crash_point("api.before_pointer_flip")

    async def _tear_down_retired(self, connection: AsyncConnection, recorded: Recorded) -> None:
        agent = recorded.agent
        for event, cause in zip(recorded.events, recorded.envelopes, strict=True):
            if not isinstance(event, DeploymentRetired):
                continue
            command = TearDown(
                command_id=new_id(ids.COMMAND, cause.occurred_at_ms),
                causation_id=cause.event_id,
                user_id=agent.user_id,
                agent_id=agent.id,
                request_id=cause.request_id,
                traceparent=cause.traceparent,
                deployment_id=event.deployment_id,
                not_before_ms=cause.occurred_at_ms + self._longest_call_ms,
            )
            await send(connection, subjects.command("deployer", TEAR_DOWN, agent.id), command)


async def _find(connection: AsyncConnection, fact: Fact) -> tuple[Agent, Deployment] | None:
    """Return what an unseen fact is about, locked; None where there is nothing to fold."""
    match fact.event:
        case DeploymentSucceeded() | DeploymentFailed() | DeploymentTornDown() as event:
            deployment_id = fact.envelope.aggregate_id
            agent = await store.load_for_decision(connection, event.agent_id, deployment_id)
        case _:
            raise TypeError(f"not asked for: {fact.event.type_name()}")
    deployment = agent and agent.deployments.get(deployment_id)
    if agent is None or deployment is None or deployment.fact_version >= fact.envelope.version:
        return None
    return agent, deployment


async def _tier_changed(
    connection: AsyncConnection, envelope: Envelope, event: TierChanged
) -> None:
    statement = insert(accounts).values(
        user_id=envelope.user_id, tier=event.tier, version=envelope.version
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id"],
            set_={"tier": statement.excluded.tier, "version": statement.excluded.version},
            where=accounts.c.version < statement.excluded.version,
        )
    )


def _because_of(envelope: Envelope) -> EventMetadata:
    return EventMetadata(
        actor=ACTOR,
        request_id=envelope.request_id,
        traceparent=envelope.traceparent,
        causation_id=envelope.event_id,
    )
