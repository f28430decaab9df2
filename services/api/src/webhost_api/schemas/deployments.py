"""Deployments, their source, and the templates to start from."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, Field
from webhost_contracts.errors import DeploymentError, ErrorCode

from webhost_api.schemas.agents import AgentSchema
from webhost_api.schemas.base import OptionalInt, OptionalText, Schema, is_absent


class ArtifactSchema(Schema):
    """What is deployed."""

    type: str
    checksum: str
    size_bytes: int


class ProviderRef(Schema):
    """Where a deployment lives at its runtime provider."""

    worker_name: str
    invoke_url: str


class DeploymentErrorSchema(Schema):
    """Why a deployment failed; `details` has step, endpoint, providerCode, providerMessage."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


def deployment_error(error: object) -> object:
    """Return why a deployment failed, as JSON; what is none is returned as it is."""
    if not isinstance(error, DeploymentError):
        return error
    details = msgspec.to_builtins(error)
    return {
        "code": ErrorCode.DEPLOYMENT_FAILED,
        "message": details.pop("message"),
        "retryable": False,
        "details": details,
    }


class DeploymentSchema(Schema):
    """A deployment."""

    id: str
    user_id: str
    agent_id: str
    version: int
    protocol: str
    runtime_provider: str
    status: str
    artifact: ArtifactSchema
    commit_hash: OptionalText = None
    provider_ref: Annotated[ProviderRef | None, Field(exclude_if=is_absent)] = None
    error_message: OptionalText = None
    error: Annotated[
        DeploymentErrorSchema | None, BeforeValidator(deployment_error), Field(exclude_if=is_absent)
    ] = None
    created_at_ms: int
    deployed_at_ms: OptionalInt = None
    finished_at_ms: OptionalInt = None
    deployed_by_user_id: str


class DeploymentResponse(Schema):
    """One deployment."""

    deployment: DeploymentSchema


class DeploymentsResponse(Schema):
    """Deployments, newest first; `nextCursor` leads on."""

    deployments: list[DeploymentSchema]
    next_cursor: str | None


class ActivatedResponse(Schema):
    """The agent and the deployment that it points at now."""

    agent: AgentSchema
    deployment: DeploymentSchema


class ModuleSchema(Schema):
    """One module of a deployment's source: text; WebAssembly is base64, and says so."""

    name: str
    content: str
    encoding: Annotated[Literal["base64"] | None, Field(exclude_if=is_absent)] = None


class SourceResponse(Schema):
    """What was deployed."""

    modules: list[ModuleSchema]


class TemplateSchema(Schema):
    """A built-in template."""

    name: str
    description: str
    module_code: str


class TemplatesResponse(Schema):
    """The built-in templates."""

    templates: list[TemplateSchema]
