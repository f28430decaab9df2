"""Agents."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_contracts.errors import ErrorCode

from webhost_api import decisions, handlers, queries
from webhost_api.decisions import DescribeAgent
from webhost_api.dependencies import AgentId, CurrentCaller, Cursor, Deps, Limit, RequestKey
from webhost_api.http import UserRoute, answered, execute
from webhost_api.idempotency import id_for
from webhost_api.keys.access import open_to_limited
from webhost_api.model import AgentStatus
from webhost_api.openapi_responses import refusals
from webhost_api.schemas.agents import AgentResponse, AgentsResponse
from webhost_api.schemas.requests import CreateAgentBody, UpdateAgentBody

CONFLICT = refusals(ErrorCode.CONFLICT)
DESCRIBED = refusals(ErrorCode.CONFLICT, ErrorCode.LIMIT_EXCEEDED)

router = APIRouter(prefix="/v1/agents", tags=["agents"], route_class=UserRoute)


@router.get("", response_model=AgentsResponse)
@open_to_limited
async def list_agents(
    deps: Deps,
    caller: CurrentCaller,
    limit: Limit = queries.DEFAULT_LIMIT,
    cursor: Cursor = None,
    status: AgentStatus | None = None,
    include_deleted: Annotated[bool, Query(alias="includeDeleted")] = False,
) -> Response:
    """The caller's agents, newest first."""
    page = queries.Page.requested(limit, cursor)
    async with deps.database.transaction() as connection:
        agents, following = await queries.list_agents(
            connection,
            caller.user_id,
            page,
            status=status,
            include_deleted=include_deleted,
            only=caller.agent_ids,
        )
    page_of_agents = {"agents": agents, "next_cursor": following}
    return answered(AgentsResponse.model_validate(page_of_agents))


@router.post("", status_code=201, response_model=AgentResponse, responses=DESCRIBED)
async def create_agent(
    deps: Deps, caller: CurrentCaller, key: RequestKey, body: CreateAgentBody
) -> Response:
    """Create an agent."""
    agent_id = await id_for(deps.database, deps.tiers, key, ids.AGENT, caller.metadata.at_ms)
    command = msgspec.convert(body.model_dump(), DescribeAgent)

    async def work(connection: AsyncConnection) -> AgentResponse:
        agent = await handlers.create_agent(connection, caller, deps.tiers, agent_id, command)
        return AgentResponse.model_validate({"agent": agent})

    return await execute(deps, key, work, status=201)


@router.get("/{agentId}", response_model=AgentResponse)
async def get_agent(deps: Deps, caller: CurrentCaller, agent_id: AgentId) -> Response:
    """One agent."""
    async with deps.database.transaction() as connection:
        agent = await queries.agent(connection, caller.user_id, agent_id)
    return answered(AgentResponse.model_validate({"agent": agent}))


@router.patch("/{agentId}", response_model=AgentResponse, responses=DESCRIBED)
async def update_agent(
    deps: Deps, caller: CurrentCaller, agent_id: AgentId, body: UpdateAgentBody
) -> Response:
    """Change an agent's fields. Secrets whose names are not declared any more are deleted."""
    command = msgspec.convert(body.model_dump(), DescribeAgent)
    version = 0
    if command.env_var_keys is not None:
        async with deps.database.snapshot() as connection:
            agent, undeclared = await handlers.check_update(
                connection, caller, deps.tiers, agent_id, command
            )
        if undeclared:
            version = await deps.secrets.delete(caller, agent, undeclared)

    async def work(connection: AsyncConnection) -> AgentResponse:
        if version:
            await handlers.secrets_changed(connection, caller, agent_id, version)
        agent = await handlers.update_agent(connection, caller, deps.tiers, agent_id, command)
        return AgentResponse.model_validate({"agent": agent})

    return await execute(deps, None, work)


@router.delete("/{agentId}", response_model=AgentResponse)
async def delete_agent(deps: Deps, caller: CurrentCaller, agent_id: AgentId) -> Response:
    """Delete the agent, refuse its invocations, and remove its resources."""

    async def work(connection: AsyncConnection) -> AgentResponse:
        agent = await handlers.delete_agent(connection, caller, deps.commands, agent_id)
        return AgentResponse.model_validate({"agent": agent})

    return await execute(deps, None, work)


@router.post("/{agentId}/disable", response_model=AgentResponse, responses=CONFLICT)
async def disable_agent(
    deps: Deps, caller: CurrentCaller, key: RequestKey, agent_id: AgentId
) -> Response:
    """Refuse invocations from now on."""

    async def work(connection: AsyncConnection) -> AgentResponse:
        agent = await handlers.change_agent(
            connection, caller, deps.tiers, agent_id, decisions.disable
        )
        return AgentResponse.model_validate({"agent": agent})

    return await execute(deps, key, work)


@router.post("/{agentId}/enable", response_model=AgentResponse, responses=CONFLICT)
async def enable_agent(
    deps: Deps, caller: CurrentCaller, key: RequestKey, agent_id: AgentId
) -> Response:
    """Accept invocations again."""

    async def work(connection: AsyncConnection) -> AgentResponse:
        agent = await handlers.change_agent(
            connection, caller, deps.tiers, agent_id, decisions.enable
        )
        return AgentResponse.model_validate({"agent": agent})

    return await execute(deps, key, work)
