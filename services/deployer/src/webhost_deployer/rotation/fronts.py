"""Gives fronts their keys: the platform's public ones, and the next telemetry key where theirs is
revoked.

Consumes: the rows that say which fronts are to be updated. Emits: `deployment.front_updated.v1`,
`deployment.telemetry_key_revoked.v1`.
Guarantees: a front stays in the work until it has its keys. A revocation is stated once its front
has the next key, or after one try: a front that cannot be reached does not put it off.
On replay (a kill between the call and its outcome): the call is made again.
"""

from collections.abc import Callable

import structlog
from msgspec.structs import replace
from prometheus_client import Counter
from webhost_contracts.events import DeploymentFrontUpdated, DeploymentTelemetryKeyRevoked
from webhost_contracts.events.base import Event
from webhost_contracts.platform_keys import Ids
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.process.crashpoints import crash_point

from webhost_deployer import saga
from webhost_deployer import store as deployments
from webhost_deployer.crash_points import Moment, fact_point
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ProviderError
from webhost_deployer.rotation import store
from webhost_deployer.rotation.store import Due
from webhost_deployer.steps import Steps

log = structlog.get_logger(__name__)

_updates = Counter(
    "webhost_deployer_front_updates_total",
    "Tries to give a Worker's front the keys that are in force",
    ["outcome"],
)


class FrontUpdates:
    """Does one piece of the work at a time. New keys are of this master key's version."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        newest_key_version: int,
        jitter: Callable[[], float],
    ) -> None:
        self._database = database
        self._steps = steps
        self._key_version = newest_key_version
        self._jitter = jitter

    async def bring_up(self, due: Due) -> None:
        """Update one front, or postpone it. Raises Unavailable."""
        deployment = due.deployment
        if due.revoked_by is not None:
            deployment = _with_next_key(deployment, self._key_version)
        keys = await self._update(deployment, due.tries) if deployment.has_front else ()
        if due.revoked_by is not None:
            plan = deployment.plan
            event: Event = DeploymentTelemetryKeyRevoked(
                agent_id=deployment.agent_id,
                key_version=plan.key_version,
                key_generation=plan.key_generation,
                operator=due.revoked_by,
                front_keys=keys or (),
            )
        else:
            event = DeploymentFrontUpdated(agent_id=deployment.agent_id, front_keys=keys or ())
        if keys is None and due.revoked_by is None:
            await self._postpone(due)
            return
        crash_point(fact_point(type(event), Moment.RECORDING))
        await self._record(due, event, done=keys is not None)
        crash_point(fact_point(type(event), Moment.RECORDED))

    async def _update(self, deployment: Deployment, failed_tries: int) -> Ids | None:
        try:
            keys = await self._steps.update_front(deployment)
        except (ProviderError, TimeoutError) as error:
            log.warning("front not updated", tries=failed_tries + 1, error=str(error))
            _updates.labels("failed").inc()
            return None
        _updates.labels("succeeded").inc()
        return keys

    async def _record(self, due: Due, event: Event, *, done: bool) -> None:
        before = due.deployment
        async with self._database.transaction() as connection:
            await deployments.lock_agent(connection, before.agent_id)
            newest = await deployments.load(connection, before.id) or before
            revokes = isinstance(event, DeploymentTelemetryKeyRevoked)
            # Of a front that is to go, only that its key is worth nothing is of interest.
            if revokes or newest.has_front:
                await deployments.append(connection, newest, [event], now_ms())
            if done:
                await store.settle(connection, before.id)
            else:
                await store.postpone(connection, before.id, 1, self._due_at_ms(1))
        log.info(event.type_name())

    async def _postpone(self, due: Due) -> None:
        tries = due.tries + 1
        async with self._database.transaction() as connection:
            await store.postpone(connection, due.deployment.id, tries, self._due_at_ms(tries))

    def _due_at_ms(self, tries: int) -> int:
        return now_ms() + saga.delay_ms(tries, self._jitter(), saga.LONGEST_TEARDOWN_DELAY_MS)


def _with_next_key(deployment: Deployment, key_version: int) -> Deployment:
    plan = deployment.plan
    generation = plan.key_generation + 1
    started = replace(plan, key_version=key_version, key_generation=generation)
    return replace(deployment, started=started)
