"""Recovers facts after a restore, from the stream into the tables.

Consumes: the deployer's own facts that its event table lacks, each aggregate's in the order of
its versions; the caller writes the event rows.
Guarantees: the state rows are as they were when the facts were stated.
On replay: a fact at or below the version of its row changes nothing.
"""

from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import subjects
from webhost_contracts.events import EVENT_TYPES
from webhost_contracts.events.base import by_name
from webhost_contracts.events.deployment import DeployerEvent
from webhost_kit.eventsourcing.facts import Fact

from webhost_deployer import store
from webhost_deployer.model import TEARDOWN_EVENTS, evolve, evolve_teardown

TYPES = by_name(*(kind for kind in EVENT_TYPES if issubclass(kind, DeployerEvent)))
"""All that the deployer states."""

OWN_SUBJECTS = (subjects.events_of_kind("deployment"),)
"""Where it states that."""


async def recover(connection: AsyncConnection, fact: Fact) -> None:
    """Write what one of the deployer's own facts makes of its state row."""
    envelope = fact.envelope
    if isinstance(fact.event, TEARDOWN_EVENTS):
        teardown = await store.teardown_of(connection, envelope.aggregate_id)
        if teardown is None or teardown.version < envelope.version:
            state = evolve_teardown(teardown, envelope, fact.event)
            await store.save_teardown(connection, state, envelope.occurred_at_ms)
        return
    deployment = await store.load(connection, envelope.aggregate_id)
    if deployment is None or deployment.version < envelope.version:
        await store.save(connection, evolve(deployment, envelope, fact.event))
