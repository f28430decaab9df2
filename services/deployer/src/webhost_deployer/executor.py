"""Executes all that is due for one agent, in order, in the process that holds its lock.

Consumes: the deployer's own rows. Emits: the outcome of every step as a fact, with its state
row, in one transaction; then `deployment.succeeded`, `.failed` or `.torn_down`; for a deleted
agent `teardown.finished`. For secrets and keys that changed, see `secrets.updates` and
`rotation.fronts`.
Guarantees: an outcome is recorded only if the state is still the one that the step was decided on.
On replay (a kill between a step and its outcome): the step is done again.
"""

import random
from collections.abc import Callable
from time import monotonic
from typing import get_args

import structlog
from prometheus_client import Counter, Histogram
from webhost_contracts import ids
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStepFailed,
    DeploymentSucceeded,
    DeploymentTornDown,
    TeardownFinished,
)
from webhost_contracts.events.base import Event
from webhost_kit.clock import now_ms
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import Lock
from webhost_kit.errors import Fault, VersionConflict
from webhost_kit.process import tracing
from webhost_kit.process.crashpoints import crash_point
from webhost_kit.process.metrics import STEP_S

from webhost_deployer import saga, store
from webhost_deployer.crash_points import PURGE, Moment, fact_point, point
from webhost_deployer.decisions import AGENT_DELETED
from webhost_deployer.model import AgentTeardown, Deployment, Step
from webhost_deployer.provider import ProviderError
from webhost_deployer.rotation import store as fronts
from webhost_deployer.rotation.fronts import FrontUpdates
from webhost_deployer.secrets import store as secrets
from webhost_deployer.secrets.updates import SecretUpdates
from webhost_deployer.steps import StepFailed, Steps

log = structlog.get_logger(__name__)

_steps = Histogram(
    "webhost_deployer_step_duration_seconds",
    "Seconds of one try of a saga's step at the provider",
    ["step", "outcome"],
    buckets=STEP_S,
)
_ended = Counter(
    "webhost_deployer_deployments_total",
    "Deployments that ended: `succeeded`, `failed`, or `torn_down` later",
    ["outcome"],
)
_given_up = Counter(
    "webhost_deployer_deployments_given_up_total",
    "Deployments that were decided to fail; the fault is `others` where it is the user's code or "
    "settings, `ours` where it is the platform's or Cloudflare's",
    ["fault"],
)
for _fault in get_args(Fault):
    _given_up.labels(_fault)
_duration = Histogram(
    "webhost_deployer_deployment_duration_seconds",
    "Seconds from a deployment's request to its end, what it waited for its turn included",
    ["outcome"],
    buckets=STEP_S,
)
_OUTCOMES: dict[type[Event], str] = {
    DeploymentSucceeded: "succeeded",
    DeploymentFailed: "failed",
    DeploymentTornDown: "torn_down",
}
for _outcome in _OUTCOMES.values():
    _ended.labels(_outcome)


class Executor:
    """Executes an agent's sagas."""

    def __init__(
        self,
        database: Database,
        steps: Steps,
        jitter: Callable[[], float] = random.random,
        newest_key_version: int = 1,
    ) -> None:
        self._database = database
        self._steps = steps
        self._jitter = jitter
        self._secrets = SecretUpdates(database, steps, jitter)
        self._fronts = FrontUpdates(database, steps, newest_key_version, jitter)

    async def execute(
        self, agent_id: str, lock: Lock, may_go_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Do what is due, as long as it may go on. Raises Unavailable when Postgres is away."""
        while may_go_on():
            await lock.confirm()
            async with self._database.transaction() as connection:
                now = now_ms()
                due = await store.due_deployment(connection, agent_id, now)
                purge = await store.due_purge(connection, agent_id, now)
                lagging = await secrets.due_update(connection, agent_id, now)
                front = await fronts.due_update(connection, agent_id, now)
            # A key that was revoked is good until its front has the next one: nothing comes before.
            if front is not None and (front.revoked_by or not (lagging or due)):
                with structlog.contextvars.bound_contextvars(deployment=front.deployment.id):
                    await self._fronts.bring_up(front)
            elif lagging is not None:
                with structlog.contextvars.bound_contextvars(deployment=lagging.deployment.id):
                    await self._secrets.bring_up(lagging)
            elif due is not None:
                deployment, began_at_ms = due
                with structlog.contextvars.bound_contextvars(
                    deployment=deployment.id, request_id=deployment.cause.request_id
                ):
                    await self._advance(deployment, began_at_ms, now)
            elif purge is not None:
                await self._purge(*purge)
            else:
                return

    async def _advance(self, deployment: Deployment, began_at_ms: int | None, now: int) -> None:
        match saga.next_action(deployment, now, began_at_ms):
            case saga.Run() as run:
                if began_at_ms is None:
                    # Before any fact says so: the first step may kill whoever does it.
                    async with self._database.transaction() as connection:
                        await store.set_began(connection, deployment.id, now)
                await self._run(deployment, run)
            case saga.Succeed(check_secrets):
                await self._succeed(deployment, check_secrets)
            case saga.Record(event):
                await self._end(deployment, event)
            case saga.Wait():
                # The row is due but the saga has nothing to do: correct the row.
                async with self._database.transaction() as connection:
                    newest = await store.load(connection, deployment.id)
                    await store.save(connection, newest or deployment)

    async def _succeed(self, deployment: Deployment, check_secrets: saga.Run) -> None:
        with tracing.span("step succeed", traceparent=deployment.cause.traceparent):
            await self._conclude(deployment, check_secrets)

    async def _conclude(self, deployment: Deployment, check_secrets: saga.Run) -> None:
        provider = self._steps.provider_of(deployment)
        event = DeploymentSucceeded(
            agent_id=deployment.agent_id,
            worker_name=provider.worker_name(deployment),
            invoke_url=provider.invoke_url(deployment),
            secrets_version=deployment.secrets_version,
        )
        crash_point(fact_point(type(event), Moment.RECORDING))
        try:
            async with self._database.transaction() as connection:
                # A secret that is set from now on finds a deployment that answers.
                await store.lock_agent(connection, deployment.agent_id)
                newest = await secrets.load(connection, deployment.agent_id)
                lags = newest is not None and deployment.secrets_version < newest.version
                if not lags:
                    await store.append(connection, deployment, [event], now_ms())
        except VersionConflict:
            log.info("another decision came first; deciding again")
            return
        if lags:
            await self._run(deployment, check_secrets)
            return
        log.info(event.type_name())
        _count_end(deployment, event)
        crash_point(fact_point(type(event), Moment.RECORDED))

    async def _run(self, deployment: Deployment, run: saga.Run) -> None:
        with tracing.span(
            f"step {run.step}",
            traceparent=deployment.cause.traceparent,
            attributes={
                "webhost.deployment.id": deployment.id,
                "webhost.agent.id": deployment.agent_id,
                "webhost.step": run.step,
                "webhost.step.attempt": run.attempt,
            },
        ) as span:
            await self._try(deployment, run, span)

    async def _try(self, deployment: Deployment, run: saga.Run, span: tracing.Span) -> None:
        started, began_s = now_ms(), monotonic()
        fault: Fault = "ours"
        crash_point(point(run.step, Moment.STARTING))
        try:
            secrets_version = await self._steps.perform(run.step, deployment)
            uploads = run.step is Step.UPLOAD
            front_keys = self._steps.front_keys(deployment) if uploads else ()
        except StepFailed as failure:
            event: Event = saga.failed(
                deployment,
                run,
                failure.error,
                transient=failure.transient,
                started_at_ms=started,
                now_ms=now_ms(),
                jitter=self._jitter(),
                retry_after_ms=failure.retry_after_s * 1000,
            )
            log.warning(
                "step failed",
                step=run.step,
                attempt=run.attempt,
                error=failure.error.message,
                code=failure.error.provider_code,
                said=failure.error.provider_message,
            )
            _steps.labels(run.step, "failed").observe(monotonic() - began_s)
            span.set("webhost.step.outcome", "failed")
            span.set("webhost.step.transient", failure.transient)
            span.fail(failure.error.provider_code or "step_failed")
            fault = failure.fault
        else:
            event = saga.succeeded(deployment, run, started, secrets_version, front_keys)
            log.info("step done", step=run.step, attempt=run.attempt)
            _steps.labels(run.step, "succeeded").observe(monotonic() - began_s)
            span.set("webhost.step.outcome", "succeeded")
        crash_point(point(run.step, Moment.DONE))
        await self._record(deployment, event, fault)
        crash_point(point(run.step, Moment.RECORDED))

    async def _end(self, deployment: Deployment, event: Event) -> None:
        log.info(event.type_name())
        crash_point(fact_point(type(event), Moment.RECORDING))
        deleted = isinstance(event, DeploymentStepFailed) and event.error.message == AGENT_DELETED
        await self._record(deployment, event, "others" if deleted else "ours")
        crash_point(fact_point(type(event), Moment.RECORDED))

    async def _record(self, deployment: Deployment, event: Event, fault: Fault) -> None:
        """Record what happened; `fault` is whose it is, if this fails the deployment."""
        try:
            async with self._database.transaction() as connection:
                await store.append(connection, deployment, [event], now_ms())
        except VersionConflict:
            log.info("another decision came first; deciding again")
            return
        if isinstance(event, DeploymentStepFailed) and event.retry_at_ms is None:
            _given_up.labels(fault).inc()
        _count_end(deployment, event)

    async def _purge(self, teardown: AgentTeardown, failed_tries: int) -> None:
        agent_id = teardown.agent_id
        crash_point(point(PURGE, Moment.STARTING))
        try:
            await self._steps.purge_sessions(teardown)
        except ProviderError as error:
            log.warning("purge failed", agent=agent_id, error=str(error))
            tries = failed_tries + 1
            longest_ms = saga.LONGEST_TEARDOWN_DELAY_MS
            pause_ms = saga.delay_ms(tries, self._jitter(), longest_ms)
            due_at_ms = now_ms() + max(pause_ms, error.retry_after_s * 1000)
            async with self._database.transaction() as connection:
                await store.postpone_purge(connection, agent_id, tries, due_at_ms)
            return
        crash_point(point(PURGE, Moment.DONE))
        try:
            async with self._database.transaction() as connection:
                finished = TeardownFinished(agent_id=agent_id)
                await store.append_teardown(connection, teardown, [finished], now_ms())
        except VersionConflict:
            log.info("teardown already recorded", agent=agent_id)
        crash_point(point(PURGE, Moment.RECORDED))


def _count_end(deployment: Deployment, event: Event) -> None:
    """Count what is recorded now, if it is the deployment's end."""
    outcome = _OUTCOMES.get(type(event))
    if outcome is None:
        return
    _ended.labels(outcome).inc()
    requested_at_ms = ids.made_at_ms(deployment.id)
    if outcome != "torn_down" and requested_at_ms is not None:
        seconds = (now_ms() - requested_at_ms) / 1000
        _duration.labels(outcome).observe(max(seconds, 0.0))
