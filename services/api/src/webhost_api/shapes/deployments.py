"""Deployments, their source, and the templates to start from."""

from typing import Annotated, Any

import msgspec
from pydantic import Field
from webhost_contracts.errors import DeploymentError, ErrorCode
from webhost_contracts.invoke import PROTOCOL

from webhost_api.model import Deployment
from webhost_api.shapes.agents import AgentShape
from webhost_api.shapes.base import OptionalInt, OptionalText, Shape, is_absent


class ArtifactShape(Shape):
    """What is deployed."""

    type: str
    checksum: str
    size_bytes: int


class ProviderRef(Shape):
    """Where a deployment lives at its runtime provider."""

    worker_name: str
    invoke_url: str


class DeploymentErrorShape(Shape):
    """Why a deployment failed; `details` has step, endpoint, providerCode, providerMessage."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


class DeploymentShape(Shape):
    """A deployment."""

    id: str
    user_id: str
    agent_id: str
    version: int
    protocol: str
    runtime_provider: str
    status: str
    artifact: ArtifactShape
    commit_hash: OptionalText = None
    provider_ref: Annotated[ProviderRef | None, Field(exclude_if=is_absent)] = None
    error_message: OptionalText = None
    error: Annotated[DeploymentErrorShape | None, Field(exclude_if=is_absent)] = None
    created_at_ms: int
    deployed_at_ms: OptionalInt = None
    finished_at_ms: OptionalInt = None
    deployed_by_user_id: str


class DeploymentAnswer(Shape):
    """One deployment."""

    deployment: DeploymentShape


class DeploymentsAnswer(Shape):
    """Deployments, newest first; `nextCursor` leads on."""

    deployments: list[DeploymentShape]
    next_cursor: str | None


class ActivatedAnswer(Shape):
    """The agent and the deployment that it points at now."""

    agent: AgentShape
    deployment: DeploymentShape


class ModuleShape(Shape):
    """One module of a deployment's source."""

    name: str
    content: str


class SourceAnswer(Shape):
    """What was deployed."""

    modules: list[ModuleShape]


class TemplateShape(Shape):
    """A built-in template."""

    name: str
    description: str
    module_code: str


class TemplatesAnswer(Shape):
    """The built-in templates."""

    templates: list[TemplateShape]


def deployment_shape(deployment: Deployment) -> DeploymentShape:
    """Return a deployment as the doors give it."""
    artifact, error = deployment.artifact, deployment.error
    return DeploymentShape(
        id=deployment.id,
        user_id=deployment.user_id,
        agent_id=deployment.agent_id,
        version=deployment.version,
        protocol=PROTOCOL,
        runtime_provider=deployment.runtime_provider,
        status=deployment.status,
        artifact=ArtifactShape(
            type=artifact.type, checksum=artifact.checksum, size_bytes=artifact.size_bytes
        ),
        commit_hash=deployment.commit_hash,
        provider_ref=_provider_ref(deployment),
        error_message=None if error is None else error.message,
        error=None if error is None else _deployment_error(error),
        created_at_ms=deployment.created_at_ms,
        deployed_at_ms=deployment.deployed_at_ms,
        finished_at_ms=deployment.finished_at_ms,
        deployed_by_user_id=deployment.user_id,
    )


def _provider_ref(deployment: Deployment) -> ProviderRef | None:
    if deployment.worker_name is None or deployment.invoke_url is None:
        return None
    return ProviderRef(worker_name=deployment.worker_name, invoke_url=deployment.invoke_url)


def _deployment_error(error: DeploymentError) -> DeploymentErrorShape:
    details = msgspec.to_builtins(error)
    return DeploymentErrorShape(
        code=ErrorCode.DEPLOYMENT_FAILED,
        message=details.pop("message"),
        retryable=False,
        details=details,
    )
