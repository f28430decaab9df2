"""Agents."""

from webhost_api.model import Agent
from webhost_api.schemas.base import OptionalInt, OptionalText, Schema


class AgentSchema(Schema):
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


class AgentResponse(Schema):
    """One agent."""

    agent: AgentSchema


class AgentsResponse(Schema):
    """Agents, newest first; `nextCursor` leads on."""

    agents: list[AgentSchema]
    next_cursor: str | None


def agent_schema(agent: Agent) -> AgentSchema:
    """Return an agent as the doors give it."""
    return AgentSchema(
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
