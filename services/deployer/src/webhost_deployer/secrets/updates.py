"""Brings changed secrets to the Worker of a deployment that answers.

Consumes: the rows that say which deployments lag. Emits: `deployment.secrets_applied.v1`; or
`deployment.script_lost.v1` where the provider says so at LOST_AFTER_TRIES tries.
Guarantees: a deployment stays in the work until it has the newest secrets, or its script is lost; a
failure of one holds up no other.
On replay (a kill between the call and its outcome): the call is made again.
"""

from collections.abc import Callable

import structlog
from prometheus_client import Counter
from webhost_contracts.events import DeploymentScriptLost, DeploymentSecretsApplied
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.process.crashpoints import crash_point

from webhost_deployer import saga
from webhost_deployer import store as deployments
from webhost_deployer.crash_points import Moment, fact_point
from webhost_deployer.model import Deployment, Step
from webhost_deployer.secrets import store
from webhost_deployer.secrets.store import Due
from webhost_deployer.steps import StepFailed, Steps

log = structlog.get_logger(__name__)

LOST_AFTER_TRIES = 3
"""What a provider says once may be of a place of its own that lags behind."""

_updates = Counter(
    "webhost_deployer_secret_updates_total",
    "Tries to give a Worker the secrets that its user has set since",
    ["outcome"],
)


class SecretUpdates:
    """Does one piece of the work at a time."""

    def __init__(self, database: Database, steps: Steps, jitter: Callable[[], float]) -> None:
        self._database = database
        self._steps = steps
        self._jitter = jitter

    async def bring_up(self, due: Due) -> None:
        """Give one Worker what it lacks, or postpone it. Raises Unavailable."""
        if not due.deployment.is_kept:
            await self._record(due.deployment)
            return
        try:
            version = await self._steps.perform(Step.SECRETS, due.deployment)
        except StepFailed as failure:
            reason = failure.error.provider_message or failure.error.message
            log.warning("secrets not applied", tries=due.tries + 1, error=reason)
            _updates.labels("failed").inc()
            if failure.script_gone and due.tries + 1 >= LOST_AFTER_TRIES:
                lost = DeploymentScriptLost(agent_id=due.deployment.agent_id)
                crash_point(fact_point(DeploymentScriptLost, Moment.RECORDING))
                await self._record(due.deployment, lost)
                crash_point(fact_point(DeploymentScriptLost, Moment.RECORDED))
            else:
                await self._postpone(due)
            return
        applied = DeploymentSecretsApplied(
            agent_id=due.deployment.agent_id, secrets_version=version
        )
        crash_point(fact_point(DeploymentSecretsApplied, Moment.RECORDING))
        await self._record(due.deployment, applied)
        crash_point(fact_point(DeploymentSecretsApplied, Moment.RECORDED))
        log.info("secrets applied", version=version)
        _updates.labels("succeeded").inc()

    async def _record(
        self,
        deployment: Deployment,
        event: DeploymentSecretsApplied | DeploymentScriptLost | None = None,
    ) -> None:
        async with self._database.transaction() as connection:
            await deployments.lock_agent(connection, deployment.agent_id)
            newest = await deployments.load(connection, deployment.id) or deployment
            if event is not None and newest.is_kept and _is_news(newest, event):
                newest = await deployments.append(connection, newest, [event], now_ms())
            await store.settle(connection, newest)

    async def _postpone(self, due: Due) -> None:
        tries = due.tries + 1
        longest_ms = saga.LONGEST_TEARDOWN_DELAY_MS
        due_at_ms = now_ms() + saga.delay_ms(tries, self._jitter(), longest_ms)
        async with self._database.transaction() as connection:
            await store.postpone(connection, due.deployment.id, tries, due_at_ms)


def _is_news(
    deployment: Deployment, event: DeploymentSecretsApplied | DeploymentScriptLost
) -> bool:
    if isinstance(event, DeploymentScriptLost):
        return True
    return deployment.secrets_version < event.secrets_version
