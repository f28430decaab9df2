"""A deployment as the deployer sees it, and what each fact makes of it. Pure."""

from enum import StrEnum

from msgspec.structs import replace
from webhost_contracts.commands import Deploy
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import (
    DeploymentFailed,
    DeploymentStarted,
    DeploymentStepFailed,
    DeploymentStepSucceeded,
    DeploymentSucceeded,
    DeploymentTornDown,
)
from webhost_contracts.events.base import Event
from webhost_contracts.wire import Wire


class Step(StrEnum):
    """What is done at a provider, or undone there; each may be done again without harm."""

    VALIDATE = "validate"
    SESSION_STORE = "session_store"
    UPLOAD = "upload"
    ROUTE = "route"
    PROBE = "probe"
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


class Deployment(Wire, frozen=True, kw_only=True):
    """The state row. All times are Unix milliseconds.

    `tries` counts the failed tries of the step that is next. `progress_at_ms` is when work began
    or last got somewhere, None before the first step was tried. `tear_down_at_ms` is the api's
    instruction: from then on nothing of this deployment shall be at the provider.
    """

    command: Deploy
    version: int = 0
    phase: Phase = Phase.DEPLOYING
    key_version: int = 0
    key_generation: int = 0
    done: tuple[Step, ...] = ()
    removed: tuple[Step, ...] = ()
    tries: int = 0
    retry_at_ms: int = 0
    progress_at_ms: int | None = None
    failure: DeploymentError | None = None
    tear_down_at_ms: int | None = None

    @property
    def id(self) -> str:
        """Return the deployment's id."""
        return self.command.deployment_id

    @property
    def ended(self) -> bool:
        """Say whether nothing is left to be done, ever."""
        return self.phase in FINAL


def evolve(state: Deployment, event: Event, at_ms: int) -> Deployment:
    """Return what `event`, recorded at `at_ms`, makes of the deployment."""
    state = replace(state, version=state.version + 1)
    match event:
        case DeploymentStarted():
            return replace(
                state, key_version=event.key_version, key_generation=event.key_generation
            )
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
        case DeploymentFailed():
            return replace(state, phase=Phase.FAILED, failure=event.error)
        case DeploymentTornDown():
            return replace(state, phase=Phase.TORN_DOWN)
        case _:
            raise TypeError(f"not a fact about a deployment: {type(event).__name__}")


def _step_done(state: Deployment, event: DeploymentStepSucceeded) -> Deployment:
    step = Step(event.step)
    if state.phase is Phase.DEPLOYING:
        return replace(state, done=(*state.done, step))
    return replace(state, removed=(*state.removed, step))
