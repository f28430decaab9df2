"""What the doors give: camelCase JSON. An optional field that has no value is left out."""

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from webhost_contracts.entitlements import Entitlements
from webhost_contracts.errors import DeploymentError, ErrorCode
from webhost_contracts.invoke import PROTOCOL

from webhost_api.model import Agent, Deployment


def _is_absent(value: object) -> bool:
    return value is None


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


OptionalText = Annotated[str | None, Field(exclude_if=_is_absent)]
OptionalInt = Annotated[int | None, Field(exclude_if=_is_absent)]


class AgentShape(_Answer):
    """An agent."""

    id: str
    user_id: str
    name: str
    description: OptionalText = None
    status: str
    env_var_keys: list[str]
    active_deployment_id: OptionalText = None
    preferred_runtime_provider: OptionalText = None
    created_at_ms: int
    updated_at_ms: int
    last_deployed_at_ms: OptionalInt = None
    disabled_at_ms: OptionalInt = None
    deleted_at_ms: OptionalInt = None


class ArtifactShape(_Answer):
    """What is deployed."""

    type: str
    checksum: str
    size_bytes: int


class ProviderRef(_Answer):
    """Where a deployment lives at its runtime provider."""

    worker_name: str
    invoke_url: str


class DeploymentErrorShape(_Answer):
    """Why a deployment failed; `details` has step, endpoint, providerCode, providerMessage."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


class DeploymentShape(_Answer):
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
    provider_ref: Annotated[ProviderRef | None, Field(exclude_if=_is_absent)] = None
    error_message: OptionalText = None
    error: Annotated[DeploymentErrorShape | None, Field(exclude_if=_is_absent)] = None
    created_at_ms: int
    deployed_at_ms: OptionalInt = None
    finished_at_ms: OptionalInt = None
    deployed_by_user_id: str


class AgentAnswer(_Answer):
    """One agent."""

    agent: AgentShape


class AgentsAnswer(_Answer):
    """Agents, newest first; `nextCursor` leads on."""

    agents: list[AgentShape]
    next_cursor: str | None


class DeploymentAnswer(_Answer):
    """One deployment."""

    deployment: DeploymentShape


class DeploymentsAnswer(_Answer):
    """Deployments, newest first; `nextCursor` leads on."""

    deployments: list[DeploymentShape]
    next_cursor: str | None


class ActivatedAnswer(_Answer):
    """The agent and the deployment that it points at now."""

    agent: AgentShape
    deployment: DeploymentShape


class ModuleShape(_Answer):
    """One module of a deployment's source."""

    name: str
    content: str


class SourceAnswer(_Answer):
    """What was deployed."""

    modules: list[ModuleShape]


class TemplateShape(_Answer):
    """A built-in template."""

    name: str
    description: str
    module_code: str


class TemplatesAnswer(_Answer):
    """The built-in templates."""

    templates: list[TemplateShape]


class EntitlementsShape(_Answer):
    """What a tier allows; null is unlimited. Compute in milliseconds, rates per minute."""

    requests: int | None
    tokens: int | None
    compute_ms: int | None
    agents: int | None
    concurrency: int | None
    requests_per_minute: int
    agentcore_enabled: bool
    telemetry_days: int
    log_days: int


class UserShape(_Answer):
    """The caller."""

    id: str
    subject: str
    email: OptionalText = None
    name: OptionalText = None
    tier: str
    entitlements: EntitlementsShape
    created_at_ms: int


class UserAnswer(_Answer):
    """The caller."""

    user: UserShape


class CountersShape(_Answer):
    """Summed counters. The cost is an estimate, in dollars."""

    requests: int
    llm_tokens: int
    compute_ms: int
    tool_calls: int
    errors: int
    cost_usd_estimated: float


class UsageShape(CountersShape):
    """A user's counters of one period."""

    user_id: str
    period_key: str
    updated_at_ms: int


class LimitsShape(_Answer):
    """The tier's limits; null is unlimited."""

    requests: int | None
    tokens: int | None
    compute_ms: int | None


class UsageAnswer(_Answer):
    """What a user used in a period, and may use."""

    period_key: str
    tier: str
    usage: UsageShape
    by_runtime: dict[str, CountersShape]
    limits: LimitsShape


class UsageEventShape(_Answer):
    """One counted call or report."""

    id: str
    user_id: str
    agent_id: str
    deployment_id: str
    runtime_provider: str
    invocation_id: OptionalText = None
    event_id: OptionalText = None
    trace_id: OptionalText = None
    timestamp_ms: int
    requests: int
    llm_tokens: int
    compute_ms: int
    tool_calls: int
    errors: int
    error_class: OptionalText = None
    cost_usd_estimated: float
    source: str
    provider: Annotated[dict[str, Any] | None, Field(exclude_if=_is_absent)] = None


class UsageEventsAnswer(_Answer):
    """Recent usage events, newest first."""

    events: list[UsageEventShape]


class ErrorShape(_Answer):
    """A failure."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]
    request_id: str


class ErrorAnswer(_Answer):
    """The body of every answer that is not 2xx."""

    error: ErrorShape


def agent_shape(agent: Agent) -> AgentShape:
    """Return an agent as the doors give it."""
    return AgentShape(
        id=agent.id,
        user_id=agent.user_id,
        name=agent.name,
        description=agent.description,
        status=agent.status,
        env_var_keys=list(agent.env_var_keys),
        active_deployment_id=agent.active_deployment_id,
        preferred_runtime_provider=agent.preferred_runtime_provider,
        created_at_ms=agent.created_at_ms,
        updated_at_ms=agent.updated_at_ms,
        last_deployed_at_ms=agent.last_deployed_at_ms,
        disabled_at_ms=agent.disabled_at_ms,
        deleted_at_ms=agent.deleted_at_ms,
    )


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


def entitlements_shape(entitlements: Entitlements) -> EntitlementsShape:
    """Return what a tier allows as the doors give it."""
    return EntitlementsShape(**msgspec.structs.asdict(entitlements))


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
