"""Does one step of the saga, at whichever provider the deployment is for."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext

import structlog
from webhost_contracts.artifacts import Artifact, Bundle
from webhost_contracts.errors import DeploymentError, ErrorCode
from webhost_kit.errors import ArtifactInvalid, ArtifactsAway, Fault, Unavailable
from webhost_kit.process.observability import REDACTED, redact_text
from webhost_kit.sealing import CannotOpen

from webhost_deployer.budget import calls_for
from webhost_deployer.capacity import Capacity
from webhost_deployer.model import AgentTeardown, Deployment, Step
from webhost_deployer.provider import Provider, ProviderError, ScriptGone
from webhost_deployer.saga import REMOVAL
from webhost_deployer.secrets.values import Changes, SecretValues

log = structlog.get_logger(__name__)

STEP_TIMEOUT_S = 90.0
LONGEST_TEXT = 500
LARGE_BYTES = 2 * 1024 * 1024
LARGE_AT_ONCE = 2
"""Steps that hold artifacts of more than LARGE_BYTES in memory, in one process."""


class StepFailed(Exception):
    """A step could not be done; `error` is safe to show. `script_gone` is the provider's word.

    It is not to be tried again before `retry_after_s` are over. The fault is `others` where it is
    the user's code or settings.
    """

    def __init__(
        self,
        error: DeploymentError,
        *,
        transient: bool,
        retry_after_s: int = 0,
        script_gone: bool = False,
        fault: Fault = "ours",
    ) -> None:
        super().__init__(error.message)
        self.fault: Fault = fault
        self.error = error
        self.transient = transient
        self.retry_after_s = retry_after_s
        self.script_gone = script_gone


class Steps:
    """The steps, by provider name. `read` raises as `webhost_kit.bus.artifacts.read` does."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        read: Callable[[Artifact], Awaitable[Bundle]],
        capacity: Capacity,
        secrets: SecretValues,
    ) -> None:
        self._providers = providers
        self._read = read
        self._capacity = capacity
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._secrets = secrets

    def provider_of(self, deployment: Deployment) -> Provider:
        """Return where the deployment runs. Raises KeyError when it can run nowhere."""
        return self._providers[deployment.plan.runtime_provider]

    def front_keys(self, deployment: Deployment) -> tuple[str, ...]:
        """Return the ids of the public keys of the front that an upload makes, if it makes one."""
        return self.provider_of(deployment).front_keys(deployment)

    async def perform(self, step: Step, deployment: Deployment) -> int:
        """Do the step, and return the version of the secrets that the deployment has then.

        Raises StepFailed, or Unavailable when our own Postgres is away.
        """
        try:
            async with self._memory(step, deployment), asyncio.timeout(STEP_TIMEOUT_S):
                with calls_for(deployment.user_id, removes=step in REMOVAL):
                    return await self._perform(step, deployment)
        except ProviderError as error:
            raise StepFailed(
                _from_provider(step, error),
                transient=error.transient,
                retry_after_s=error.retry_after_s,
                script_gone=isinstance(error, ScriptGone),
                fault=_fault_of(step, error),
            ) from error
        except ArtifactInvalid as error:
            raise _failed(step, str(error), transient=False) from error
        except CannotOpen as error:
            message = f"A secret cannot be opened: {error}. Set it again."
            raise _failed(step, message, transient=False) from error
        except (ArtifactsAway, TimeoutError) as error:
            raise _failed(step, str(error) or "Timed out.", transient=True) from error
        except (StepFailed, Unavailable):
            raise
        except Exception as error:
            log.exception("step failed unexpectedly", step=step)
            raise _failed(step, "The platform failed.", transient=True) from error

    async def update_front(self, deployment: Deployment) -> tuple[str, ...]:
        """Give a deployment's front its keys; return the ids of the public ones that it has then.

        Raises ProviderError, TimeoutError.
        """
        provider = self.provider_of(deployment)
        async with asyncio.timeout(STEP_TIMEOUT_S):
            with calls_for(None, removes=False):
                await provider.update_front(deployment)
        return provider.front_keys(deployment)

    async def purge_sessions(self, teardown: AgentTeardown) -> None:
        """Remove the agent's sessions at every provider. Raises ProviderError."""
        with calls_for(teardown.user_id, removes=True):
            for provider in self._providers.values():
                await provider.purge_sessions(teardown.agent_id)

    def _memory(
        self, step: Step, deployment: Deployment
    ) -> AbstractAsyncContextManager[object | None]:
        reads = step in (Step.VALIDATE, Step.UPLOAD)
        is_large = reads and deployment.plan.artifact.size_bytes > LARGE_BYTES
        return self._large if is_large else nullcontext()

    async def _perform(self, step: Step, deployment: Deployment) -> int:
        if step is Step.VALIDATE:
            await self._validate(deployment)
            return deployment.secrets_version
        provider = self.provider_of(deployment)
        match step:
            case Step.SESSION_STORE:
                await provider.ensure_installation(deployment)
            case Step.UPLOAD:
                bundle = await self._bundle(deployment)
                changes = await self._secrets.changes_since(deployment, 0)
                with _hidden(changes):
                    await provider.upload(deployment, bundle, changes.bindings)
                return changes.version
            case Step.ROUTE:
                await provider.route(deployment)
            case Step.PROBE:
                await provider.probe(deployment)
            case Step.SECRETS:
                since = deployment.secrets_version
                changes = await self._secrets.changes_since(deployment, since)
                if changes.values:
                    with _hidden(changes):
                        await provider.change_secrets(deployment, changes.values)
                return changes.version
            case Step.REMOVE_ROUTE:
                await provider.remove_route(deployment)
            case Step.REMOVE_SCRIPT:
                await provider.remove_script(deployment)
        return deployment.secrets_version

    async def _validate(self, deployment: Deployment) -> None:
        name = deployment.plan.runtime_provider
        if name not in self._providers:
            raise _failed(
                Step.VALIDATE, f"The runtime provider {name} is not supported.", transient=False
            )
        bundle = await self._bundle(deployment)
        problem = self._providers[name].problem_of(deployment, bundle)
        if problem is None and (full := await self._capacity.problem_of(deployment)):
            raise _failed(Step.VALIDATE, full, transient=False)
        if problem is None and (missing := await self._secrets.not_set(deployment)):
            problem = (
                f"The deployment requires secrets that are not set: {', '.join(missing)}. Set each"
                " with `webhost secrets set AGENT KEY`, and deploy again."
            )
        if problem is not None:
            raise _failed(Step.VALIDATE, problem, transient=False, fault="others")

    async def _bundle(self, deployment: Deployment) -> Bundle:
        return await self._read(deployment.plan.artifact)


@contextmanager
def _hidden(changes: Changes) -> Generator[None]:
    """Let no value reach an error, whatever the provider answers."""
    try:
        yield
    except ProviderError as error:
        message = error.message
        for value in sorted(changes.bindings.values(), key=len, reverse=True):
            message = message.replace(value, REDACTED)
        raise error.saying(message) from None


def _failed(step: Step, message: str, *, transient: bool, fault: Fault = "ours") -> StepFailed:
    error = DeploymentError(step=step, message=_safe(message))
    return StepFailed(error, transient=transient, fault=fault)


def _fault_of(step: Step, error: ProviderError) -> Fault:
    """Return whose fault it is: the user's, where Cloudflare takes the upload and not what is in
    it, or where our front runs and the agent's module does not.
    """
    match step:
        case Step.UPLOAD | Step.SECRETS:
            gone = isinstance(error, ScriptGone)
            refused = not error.transient and error.advice is None and error.code is not None
            return "others" if refused and not gone else "ours"
        case Step.PROBE:
            return "others" if error.code == ErrorCode.RUNTIME_ERROR else "ours"
        case _:
            return "ours"


def _from_provider(step: Step, error: ProviderError) -> DeploymentError:
    failed = f"The runtime provider failed at {step}."
    return DeploymentError(
        step=step,
        message=_safe(" ".join(filter(None, (failed, error.advice)))),
        endpoint=_safe(error.endpoint),
        provider_code=None if error.code is None else _safe(error.code),
        provider_message=_safe(error.message),
    )


def _safe(text: str) -> str:
    # UTF-8 has no lone surrogates, Postgres no NUL; a failure must be recordable.
    writable = text.encode("utf-8", "replace").decode().replace("\x00", "?")
    return redact_text(writable)[:LONGEST_TEXT]
