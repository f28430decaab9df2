"""Recovers facts after a restore, from the stream into the tables.

Consumes: the deployer's own facts that its event table lacks, each aggregate's in the order of
its versions; the caller writes the event rows.
Guarantees: the state rows are as they were when the facts were stated, but for the values of
secrets, which no fact has: what was set since is marked as lost, and has to be set again.
On replay: a fact at or below the version of its row changes nothing.
"""

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import EVENT_TYPES
from webhost_contracts.events.base import by_name
from webhost_contracts.events.deployment import DeployerEvent
from webhost_contracts.events.secret import SecretDeleted, SecretEvent
from webhost_kit.eventsourcing.facts import Fact

from webhost_deployer import store
from webhost_deployer.model import TEARDOWN_EVENTS, Phase, evolve, evolve_teardown
from webhost_deployer.secrets import model as secrets_model
from webhost_deployer.secrets import store as secrets

TYPES = by_name(*(kind for kind in EVENT_TYPES if issubclass(kind, (DeployerEvent, SecretEvent))))
"""All that the deployer states."""

OWN_SUBJECTS = tuple(map(subjects.events_of_kind, ("deployment", "secret")))
"""Where it states that."""


async def recover(connection: AsyncConnection, fact: Fact) -> None:
    """Write what one of the deployer's own facts makes of its state row."""
    envelope = fact.envelope
    if isinstance(fact.event, SecretEvent):
        await _recover_secrets(connection, fact, fact.event)
        return
    if isinstance(fact.event, TEARDOWN_EVENTS):
        teardown = await store.teardown_of(connection, envelope.aggregate_id)
        if teardown is None or teardown.version < envelope.version:
            state = evolve_teardown(teardown, envelope, fact.event)
            await store.save_teardown(connection, state, envelope.occurred_at_ms)
            await secrets.forget(connection, state.agent_id)
        return
    deployment = await store.load(connection, envelope.aggregate_id)
    if deployment is None or deployment.version < envelope.version:
        state = evolve(deployment, envelope, fact.event)
        await store.save(connection, state)
        if state.phase is Phase.LIVE:
            await secrets.mark_lagging(connection, state.agent_id)


async def _recover_secrets(connection: AsyncConnection, fact: Fact, event: SecretEvent) -> None:
    envelope = fact.envelope
    before = await secrets.load(connection, event.agent_id)
    if before is not None and before.version >= envelope.version:
        return
    await secrets.save(connection, secrets_model.evolve(before, envelope, event))
    if await store.teardown_of(connection, event.agent_id) is None:
        await secrets.put(
            connection,
            event.agent_id,
            dict.fromkeys(event.keys),
            envelope.version,
            envelope.occurred_at_ms,
            lost=not isinstance(event, SecretDeleted),
        )
        await secrets.mark_lagging(connection, event.agent_id)
