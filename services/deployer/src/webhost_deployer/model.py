"""Deployments and teardowns as the deployer sees them, and what each fact makes of them. Pure.

A state is the fold of its own aggregate's facts and of nothing else, so that it can be recovered
from the stream.
"""

from enum import StrEnum

from msgspec.structs import replace
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentFrontUpdated,
    DeploymentScriptLost,
    DeploymentSecretsApplied,
    DeploymentStarted,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTeardownScheduled,
    DeploymentTelemetryKeyRevoked,
    DeploymentTornDown,
    Envelope,
    TeardownFinished,
    TeardownStarted,
)
from webhost_contracts.events.base import Event
from webhost_contracts.events.deployment import DeployerEvent
from webhost_contracts.wire import Wire

TEARDOWN_EVENTS = (TeardownStarted, TeardownFinished)


class Step(StrEnum):
    """What is done at a provider, or undone there; each may be done again without harm."""

    VALIDATE = "validate"
    SESSION_STORE = "session_store"
    UPLOAD = "upload"
    ROUTE = "route"
    PROBE = "probe"
    SECRETS = "secrets"
    REMOVE_ROUTE = "remove_route"
    REMOVE_SCRIPT = "remove_script"


class Phase(StrEnum):
    """Where a deployment stands. FAILED and TORN_DOWN are final."""

    DEPLOYING = "deploying"
    COMPENSATING = "compensating"
    LIVE = "live"
    FAILED = "failed"
    TORN_DOWN = "torn_down"


FINAL = frozenset({Phase.FAILED, Phase.TORN_DOWN})


class Cause(Wire, frozen=True, kw_only=True):
    """The request and the event that caused everything about one aggregate."""

    request_id: str | None = None
    traceparent: str | None = None
    causation_id: str | None = None

    @classmethod
    def of(cls, envelope: Envelope) -> "Cause":
        """Return the cause that a fact names."""
        return cls(
            request_id=envelope.request_id,
            traceparent=envelope.traceparent,
            causation_id=envelope.causation_id,
        )


class Deployment(Wire, frozen=True, kw_only=True):
    """The state row. All times are Unix milliseconds.

    `tries` counts the failed attempts at the next step. `progress_at_ms` is when work began or last
    made progress, None before the first step was tried. From `tear_down_at_ms` on it is to be
    removed from its provider. Its Worker has its agent's secrets of `secrets_version`, which may
    not be the newest, and its front, where it has one of its own, the public keys of the ids
    `front_keys`; with `script_lost` there is no Worker any more. `started` is None if the command
    was unreadable: such a deployment only failed.
    """

    id: str
    user_id: str
    agent_id: str
    cause: Cause = Cause()
    version: int = 0
    started: DeploymentStarted | None = None
    phase: Phase = Phase.DEPLOYING
    done: tuple[Step, ...] = ()
    removed: tuple[Step, ...] = ()
    tries: int = 0
    retry_at_ms: int = 0
    progress_at_ms: int | None = None
    failure: DeploymentError | None = None
    tear_down_at_ms: int | None = None
    secrets_version: int = 0
    front_keys: tuple[str, ...] = ()
    script_lost: bool = False

    @property
    def plan(self) -> DeploymentStarted:
        """Return what is to be deployed, with the telemetry key that it has by now.

        Raises ValueError where work never started.
        """
        if self.started is None:
            raise ValueError(f"{self.id} was never started")
        return self.started

    @property
    def is_kept(self) -> bool:
        """Say whether it answers, and is to go on doing so."""
        return self.phase is Phase.LIVE and self.tear_down_at_ms is None and not self.script_lost

    @property
    def has_front(self) -> bool:
        """Say whether it was uploaded, and is to stay."""
        stays = self.phase in (Phase.DEPLOYING, Phase.LIVE) and self.tear_down_at_ms is None
        return stays and Step.UPLOAD in self.done and not self.script_lost

    @property
    def ended(self) -> bool:
        """Say whether nothing is left to be done, ever."""
        return self.phase in FINAL


class AgentTeardown(Wire, frozen=True, kw_only=True):
    """A deleted agent: its deployments are removed, then its sessions are purged."""

    agent_id: str
    user_id: str
    cause: Cause = Cause()
    version: int = 0
    finished: bool = False

    @property
    def id(self) -> str:
        """Return the id that its facts have."""
        return self.agent_id


def evolve(state: Deployment | None, envelope: Envelope, event: Event) -> Deployment:
    """Return the deployment after a fact; the first fact creates it."""
    if not isinstance(event, DeployerEvent) or isinstance(event, TEARDOWN_EVENTS):
        raise TypeError(f"not a fact about a deployment: {type(event).__name__}")
    if state is None:
        state = Deployment(
            id=envelope.aggregate_id,
            user_id=envelope.user_id,
            agent_id=event.agent_id,
            cause=Cause.of(envelope),
        )
    return _evolve(replace(state, version=envelope.version), event, envelope.occurred_at_ms)


def evolve_teardown(state: AgentTeardown | None, envelope: Envelope, event: Event) -> AgentTeardown:
    """Return the teardown after a fact; the first fact creates it."""
    if state is None:
        state = AgentTeardown(
            agent_id=envelope.aggregate_id, user_id=envelope.user_id, cause=Cause.of(envelope)
        )
    return replace(state, version=envelope.version, finished=isinstance(event, TeardownFinished))


def _evolve(state: Deployment, event: Event, at_ms: int) -> Deployment:
    match event:
        case DeploymentStarted():
            # Due since then: what has begun, due since ever, comes before it.
            return replace(state, started=event, retry_at_ms=at_ms)
        case DeploymentStepSucceeded():
            return _step_done(replace(state, tries=0, retry_at_ms=0, progress_at_ms=at_ms), event)
        case DeploymentStepFailed(retry_at_ms=None):
            return replace(
                state,
                phase=Phase.COMPENSATING,
                failure=event.error,
                tries=0,
                retry_at_ms=0,
                progress_at_ms=at_ms,
            )
        case DeploymentStepFailed(retry_at_ms=retry_at_ms):
            began = event.started_at_ms if state.progress_at_ms is None else state.progress_at_ms
            return replace(
                state, tries=event.attempt, retry_at_ms=retry_at_ms, progress_at_ms=began
            )
        case DeploymentSucceeded():
            return replace(state, phase=Phase.LIVE)
        case DeploymentSecretsApplied():
            return replace(state, secrets_version=event.secrets_version)
        case DeploymentFrontUpdated():
            return replace(state, front_keys=event.front_keys)
        case DeploymentTelemetryKeyRevoked():
            version, generation = event.key_version, event.key_generation
            plan = replace(state.plan, key_version=version, key_generation=generation)
            return replace(state, started=plan, front_keys=event.front_keys)
        case DeploymentScriptLost():
            return replace(state, script_lost=True)
        case DeploymentFailed():
            return replace(state, phase=Phase.FAILED, failure=event.error)
        case DeploymentTeardownScheduled():
            return replace(state, tear_down_at_ms=event.not_before_ms)
        case DeploymentTornDown():
            return replace(state, phase=Phase.TORN_DOWN)
        case _:
            raise TypeError(f"not a fact about a deployment: {type(event).__name__}")


def _step_done(state: Deployment, event: DeploymentStepSucceeded) -> Deployment:
    step = Step(event.step)
    if state.phase is Phase.DEPLOYING:
        done = state.done if step in state.done else (*state.done, step)
        keys = event.front_keys if step is Step.UPLOAD else state.front_keys
        return replace(state, done=done, secrets_version=event.secrets_version, front_keys=keys)
    return replace(state, removed=(*state.removed, step))
