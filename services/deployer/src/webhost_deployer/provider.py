"""What the deployer needs from a runtime provider, and how a provider's failures are reported."""

from collections.abc import Mapping
from typing import Protocol

from webhost_contracts.artifacts import Bundle

from webhost_deployer.model import Deployment


class ProviderError(Exception):
    """A call to a provider failed.

    `endpoint` is what was called, `code` and `message` are the provider's own if it gave any,
    `transient` says whether the same call may succeed later, and `advice` what has to be done
    first, where that is known. `retry_after_s` is for how long the provider asked to be left alone.
    """

    def __init__(
        self,
        endpoint: str,
        code: str | None,
        message: str,
        *,
        transient: bool,
        advice: str | None = None,
        retry_after_s: int = 0,
    ) -> None:
        super().__init__(f"{endpoint}: {message}")
        self.endpoint = endpoint
        self.code = code
        self.message = message
        self.transient = transient
        self.advice = advice
        self.retry_after_s = retry_after_s

    def saying(self, message: str) -> "ProviderError":
        """Return the same failure with another message."""
        return type(self)(
            self.endpoint,
            self.code,
            message,
            transient=self.transient,
            advice=self.advice,
            retry_after_s=self.retry_after_s,
        )


class ScriptGone(ProviderError):
    """The provider says that it has no script of this deployment."""


class Provider(Protocol):
    """A place where deployments run.

    Every method may be repeated after any outcome, an unknown one included. All raise
    ProviderError.
    """

    def worker_name(self, deployment: Deployment) -> str:
        """Return the provider's name for the deployment."""
        ...

    def invoke_url(self, deployment: Deployment) -> str:
        """Return the address at which the deployment is invoked."""
        ...

    def problem_of(self, deployment: Deployment, bundle: Bundle) -> str | None:
        """Return why these modules cannot be deployed here, None if they can."""
        ...

    async def ensure_installation(self, deployment: Deployment) -> None:
        """Make what the installation itself has there for this deployment exist and be current."""
        ...

    async def upload(
        self, deployment: Deployment, bundle: Bundle, secrets: Mapping[str, str]
    ) -> None:
        """Put the deployment's code and bindings there, its secrets' values by name included."""
        ...

    async def change_secrets(
        self, deployment: Deployment, values: Mapping[str, str | None]
    ) -> None:
        """Give a deployment that is there these secrets, by name; None removes one.

        Raises ScriptGone where it is not there any more.
        """
        ...

    def front_keys(self, deployment: Deployment) -> tuple[str, ...]:
        """Return the ids of the public keys that an upload gives the deployment's own front; none
        where it has no front of its own.
        """
        ...

    async def update_front(self, deployment: Deployment) -> None:
        """Give a deployment that is there its front again, with the keys of now."""
        ...

    async def route(self, deployment: Deployment) -> None:
        """Make the deployment reachable at its address."""
        ...

    async def probe(self, deployment: Deployment) -> None:
        """See that this deployment answers at its address."""
        ...

    async def remove_route(self, deployment: Deployment) -> None:
        """Make the deployment unreachable. One that has no route is left as it is."""
        ...

    async def remove_script(self, deployment: Deployment) -> None:
        """Remove the deployment's code. One that is gone is left as it is."""
        ...

    async def purge_sessions(self, agent_id: str) -> None:
        """Remove all sessions of an agent, permanently."""
        ...


class OwnScripts(Protocol):
    """What an installation itself has at its provider. Its methods raise ProviderError."""

    @property
    def public_key_ids(self) -> tuple[str, ...]:
        """Return the ids of the public keys that fronts are given."""
        ...

    async def refresh_own_scripts(self, namespace: str | None) -> None:
        """Upload those of the installation's own scripts again that are not current."""
        ...

    async def outdated_own_scripts(self, namespace: str | None) -> int:
        """Return how many of the installation's own scripts are not current."""
        ...
