"""The reactor to other services' facts: a deployment started, ended, was removed; secrets, a tier
or the status of an account changed.

Consumes: `deployment.*`, `teardown.*`, `secret.*` (of the deployer) and `account.*` (of billing) on
EVENTS.
Emits: `agent.deployment_ended|activated|retired` on EVENTS, `TearDown` on COMMANDS.
Guarantees: the conclusions, the rows and the checkpoint are one transaction.
On replay: a fact at or below the version last folded of its aggregate changes nothing, and a
deployment ends once.
"""

from collections.abc import Sequence

from msgspec.structs import replace
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import (
    AccountDisabled,
    AccountEnabled,
    DeploymentFailed,
    DeploymentScriptLost,
    DeploymentSecretsApplied,
    DeploymentStarted,
    DeploymentSucceeded,
    DeploymentTeardownScheduled,
    DeploymentTornDown,
    Envelope,
    Event,
    SecretDeleted,
    SecretSet,
    TeardownStarted,
    TierChanged,
)
from webhost_contracts.events.base import by_name
from webhost_contracts.events.deployment import DeployerEvent
from webhost_contracts.events.secret import SecretEvent
from webhost_kit.bus.checkpoint import Checkpoint
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Database
from webhost_kit.database.notifications import notify
from webhost_kit.eventsourcing import fold_spans
from webhost_kit.eventsourcing.facts import Fact
from webhost_kit.eventsourcing.projector import Projector
from webhost_kit.eventsourcing.store import EventMetadata, require_verified
from webhost_kit.process import tracing
from webhost_kit.process.crashpoints import crash_point

from webhost_api import decisions, handlers, model, store
from webhost_api.commands import Commands
from webhost_api.model import Agent, Deployment, ProviderRef
from webhost_api.projection import CHANNEL
from webhost_api.store import AGENTS
from webhost_api.tables import accounts

ACTOR = "service:api"
NAME = "api.reactor"

_FILTERS = tuple(map(subjects.events_of_kind, ("deployment", "account", "secret")))
_TYPES = by_name(
    DeploymentStarted,
    DeploymentSucceeded,
    DeploymentFailed,
    DeploymentTeardownScheduled,
    DeploymentTornDown,
    DeploymentSecretsApplied,
    DeploymentScriptLost,
    TeardownStarted,
    SecretSet,
    SecretDeleted,
    TierChanged,
    AccountDisabled,
    AccountEnabled,
)


class Reactor:
    """Folds what other services state, and concludes."""

    def __init__(self, *, keep_deployments: int, commands: Commands) -> None:
        self._keep = keep_deployments
        self._commands = commands

    def projector(self, database: Database, bus: Bus) -> Projector:
        """Return the projector that runs this reactor."""
        return Projector(
            NAME, database, bus, subjects.EVENTS, _FILTERS, _TYPES, self.fold, spans=False
        )

    async def fold(
        self, connection: AsyncConnection, facts: Sequence[Fact], _checkpoint: Checkpoint
    ) -> None:
        """Fold a batch of facts, in order."""
        # The aggregates that they refer to may have to be recovered first.
        require_verified(connection)
        for fact in facts:
            with fold_spans.of_fact(NAME, fact):
                await self._fold(connection, fact)

    async def _fold(self, connection: AsyncConnection, fact: Fact) -> None:
        match fact.event:
            case TierChanged() as event:
                await _account_changed(connection, fact.envelope, tier=event.tier)
            case AccountDisabled():
                await _account_changed(connection, fact.envelope, disabled=True)
            case AccountEnabled():
                await _account_changed(connection, fact.envelope, disabled=False)
            case TeardownStarted() as event:
                await _teardown_started(connection, event)
            case SecretEvent() as event:
                await _secrets_changed(connection, event, fact.envelope.version)
            case DeployerEvent() as event:
                await self._deployment_fact(connection, fact.envelope, event)
            case other:
                raise TypeError(f"not consumed here: {other.type_name()}")

    async def _deployment_fact(
        self, connection: AsyncConnection, envelope: Envelope, event: DeployerEvent
    ) -> None:
        agent = await store.load(connection, event.agent_id, envelope.aggregate_id)
        deployment = agent and agent.deployments.get(envelope.aggregate_id)
        if agent is None or deployment is None or deployment.fact_version >= envelope.version:
            return
        deployment = _after(deployment, event, envelope.version)
        await store.save_deployment(connection, deployment)
        appended = await AGENTS.append(
            connection,
            model.with_deployment(agent, deployment),
            self._conclusions(agent, deployment.id, event),
            _because_of(envelope),
        )
        await handlers.send_commands(connection, self._commands, appended)
        if isinstance(event, DeploymentSucceeded):
            crash_point("api.before_pointer_flip")

    def _conclusions(
        self, agent: Agent, deployment_id: str, event: DeployerEvent
    ) -> Sequence[Event]:
        match event:
            case DeploymentSucceeded():
                return decisions.conclude_succeeded(agent, deployment_id, self._keep)
            case DeploymentFailed():
                return decisions.conclude_failed(agent, deployment_id, event.error)
            case _:
                return ()


def _after(deployment: Deployment, event: DeployerEvent, version: int) -> Deployment:
    deployment = replace(deployment, fact_version=version)
    match event:
        case DeploymentSucceeded():
            ref = ProviderRef(worker_name=event.worker_name, invoke_url=event.invoke_url)
            return replace(deployment, provider_ref=ref, secrets_version=event.secrets_version)
        case DeploymentSecretsApplied():
            return replace(deployment, secrets_version=event.secrets_version)
        case DeploymentScriptLost():
            return replace(deployment, script_lost=True)
        case DeploymentTeardownScheduled():
            return replace(deployment, teardown_scheduled=True)
        case DeploymentTornDown():
            return model.torn_down(deployment)
        case _:
            return deployment


async def _teardown_started(connection: AsyncConnection, event: TeardownStarted) -> None:
    agent = await store.load(connection, event.agent_id)
    if agent is not None:
        await store.save(connection, agent, replace(agent, teardown_started=True))


async def _secrets_changed(connection: AsyncConnection, event: SecretEvent, version: int) -> None:
    agent = await store.load(connection, event.agent_id)
    if agent is not None:
        await store.save(connection, agent, model.with_secrets(agent, version))


async def _account_changed(
    connection: AsyncConnection, envelope: Envelope, **changed: str | bool
) -> None:
    changes = {"version": envelope.version, **changed}
    await connection.execute(
        insert(accounts)
        .values(user_id=envelope.user_id, **changes)
        .on_conflict_do_update(
            index_elements=["user_id"],
            set_=changes,
            where=accounts.c.version < envelope.version,
        )
    )
    await notify(connection, CHANNEL)


def _because_of(envelope: Envelope) -> EventMetadata:
    return EventMetadata(
        actor=ACTOR,
        request_id=envelope.request_id,
        traceparent=tracing.traceparent() or envelope.traceparent,
        causation_id=envelope.event_id,
    )
