"""The saga of a deployment: from what happened to what is done next. Pure.

Steps: validate, session_store, upload, route, probe, secrets (those that changed since the upload),
then `deployment.succeeded`. A deployment that cannot succeed is compensated: route and script are
removed, then `deployment.failed`. One that is to be torn down stops at the next step or, if it is
live, is removed the same way and ends as `deployment.torn_down`.
"""

from dataclasses import dataclass

from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentTornDown,
)

from webhost_deployer.decisions import AGENT_DELETED
from webhost_deployer.model import Deployment, Phase, Step

FORWARD = (
    *(Step.VALIDATE, Step.SESSION_STORE, Step.UPLOAD, Step.ROUTE, Step.PROBE),
    Step.SECRETS,
)
REMOVAL = (Step.REMOVE_ROUTE, Step.REMOVE_SCRIPT)

MAX_TRIES = 8
FIRST_DELAY_MS = 500
LONGEST_DELAY_MS = 60_000
LONGEST_TEARDOWN_DELAY_MS = 10 * 60_000
NO_PROGRESS_MS = 15 * 60_000
"""A deployment without progress for this long is failed."""

LONGEST_COMPENSATION_MS = 8 * 60_000
"""After this the deployment is failed anyway; reconciliation removes what is left. Longer than
the 5 minutes for which Cloudflare blocks a token: those must not leave anything."""


@dataclass(frozen=True)
class Run:
    """Do this step at the provider; it is try number `attempt`, from 1."""

    step: Step
    attempt: int


@dataclass(frozen=True)
class Succeed:
    """Record that the deployment answers; first do `secrets` again if any changed since."""

    secrets: Run


@dataclass(frozen=True)
class Record:
    """Record this fact; nothing is to be done at the provider."""

    event: DeploymentStepFailed | DeploymentFailed | DeploymentTornDown


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until_ms`, or at all where None."""

    until_ms: int | None


Action = Run | Succeed | Record | Wait


def next_action(state: Deployment, now_ms: int, began_at_ms: int | None = None) -> Action:
    """Return what is to be done now; work began at `began_at_ms`, or not yet where None."""
    match state.phase:
        case Phase.DEPLOYING:
            return _forward(state, now_ms, began_at_ms)
        case Phase.COMPENSATING:
            return _compensate(state, now_ms)
        case Phase.LIVE:
            return _tear_down(state, now_ms)
        case Phase.FAILED | Phase.TORN_DOWN:
            return Wait(None)


def due_at(state: Deployment) -> int | None:
    """Return when the deployment needs attention next, None for not at all."""
    match state.phase:
        case Phase.DEPLOYING if state.tear_down_at_ms is not None:
            return min(state.retry_at_ms, state.tear_down_at_ms)
        case Phase.DEPLOYING | Phase.COMPENSATING:
            return state.retry_at_ms
        case Phase.LIVE if state.tear_down_at_ms is not None:
            return max(state.retry_at_ms, state.tear_down_at_ms)
        case _:
            return None


def succeeded(
    state: Deployment,
    run: Run,
    started_at_ms: int,
    secrets_version: int | None = None,
    front_keys: tuple[str, ...] = (),
) -> DeploymentStepSucceeded:
    """Return the fact that the step is done, and of which version the secrets are then: by default
    that of before. `front_keys` are those of the front that it uploaded.
    """
    return DeploymentStepSucceeded(
        agent_id=state.agent_id,
        step=run.step,
        attempt=run.attempt,
        started_at_ms=started_at_ms,
        secrets_version=state.secrets_version if secrets_version is None else secrets_version,
        front_keys=front_keys,
    )


def failed(
    state: Deployment,
    run: Run,
    error: DeploymentError,
    *,
    transient: bool,
    started_at_ms: int,
    now_ms: int,
    jitter: float,
    retry_after_ms: int = 0,
) -> DeploymentStepFailed:
    """Return the fact that this try failed, and when the next one is.

    `jitter` is a random number from 0 to 1. A removal is retried until it succeeds: leftovers at a
    provider cost money. Nothing is tried again before `retry_after_ms` are over.
    """
    again = run.step in REMOVAL or (transient and run.attempt < MAX_TRIES)
    longest_ms = LONGEST_TEARDOWN_DELAY_MS if state.phase is Phase.LIVE else LONGEST_DELAY_MS
    pause_ms = max(delay_ms(run.attempt, jitter, longest_ms), retry_after_ms)
    return DeploymentStepFailed(
        agent_id=state.agent_id,
        step=run.step,
        attempt=run.attempt,
        started_at_ms=started_at_ms,
        error=error,
        retry_at_ms=now_ms + pause_ms if again else None,
    )


def delay_ms(failed_tries: int, jitter: float, longest_ms: int) -> int:
    """Return how long to wait after so many failed tries: exponential, half of it random."""
    delay = min(FIRST_DELAY_MS * 2 ** (failed_tries - 1), longest_ms)
    return round(delay * (0.5 + jitter / 2))


def _forward(state: Deployment, now_ms: int, began_at_ms: int | None) -> Action:
    left = next((step for step in FORWARD if step not in state.done), None)
    step = left or FORWARD[-1]
    if state.tear_down_at_ms is not None and state.tear_down_at_ms <= now_ms:
        return _give_up(state, step, AGENT_DELETED, now_ms)
    if left is None and state.retry_at_ms <= now_ms:
        return Succeed(Run(step, state.tries + 1))
    since_ms = began_at_ms if state.progress_at_ms is None else state.progress_at_ms
    if since_ms is not None and now_ms - since_ms >= NO_PROGRESS_MS:
        return _give_up(state, step, "No progress for 15 minutes.", now_ms)
    if state.retry_at_ms > now_ms:
        return Wait(state.retry_at_ms)
    return Run(step, state.tries + 1)


def _compensate(state: Deployment, now_ms: int) -> Action:
    if state.failure is None:
        raise ValueError(f"{state.id} is compensated and has no failure")
    began = state.progress_at_ms or 0
    step = _next_removal(state) if Step.SESSION_STORE in state.done else None
    if step is None or now_ms - began >= LONGEST_COMPENSATION_MS:
        return Record(DeploymentFailed(agent_id=state.agent_id, error=state.failure))
    return _removal(state, step, now_ms)


def _tear_down(state: Deployment, now_ms: int) -> Action:
    if state.tear_down_at_ms is None or state.tear_down_at_ms > now_ms:
        return Wait(state.tear_down_at_ms)
    step = _next_removal(state)
    if step is None:
        return Record(DeploymentTornDown(agent_id=state.agent_id))
    return _removal(state, step, now_ms)


def _removal(state: Deployment, step: Step, now_ms: int) -> Action:
    if state.retry_at_ms > now_ms:
        return Wait(state.retry_at_ms)
    return Run(step, state.tries + 1)


def _next_removal(state: Deployment) -> Step | None:
    return next((step for step in REMOVAL if step not in state.removed), None)


def _give_up(state: Deployment, step: Step, message: str, now_ms: int) -> Record:
    return Record(
        DeploymentStepFailed(
            agent_id=state.agent_id,
            step=step,
            attempt=state.tries + 1,
            started_at_ms=now_ms,
            error=DeploymentError(step=step, message=message),
        )
    )
