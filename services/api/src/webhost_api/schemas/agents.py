"""Agents."""

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
