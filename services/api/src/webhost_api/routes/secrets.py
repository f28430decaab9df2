"""Secrets of an agent. No route returns a value, and while the deployer is away none answers."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts.errors import ErrorCode
from webhost_kit.errors import InvalidRequest
from webhost_kit.process.crashpoints import crash_point

from webhost_api import handlers, queries
from webhost_api.dependencies import AgentId, CurrentCaller, Deps, RequestKey
from webhost_api.http import SecretsRoute, answered, execute, first_response
from webhost_api.idempotency import operation_of
from webhost_api.model import Agent
from webhost_api.openapi_responses import refusals
from webhost_api.schemas.requests import ENV_VAR_KEY, SetSecretsBody
from webhost_api.schemas.secrets import SecretSchema, SecretsResponse

router = APIRouter(
    prefix="/v1/agents/{agentId}/secrets", tags=["secrets"], route_class=SecretsRoute
)

Key = Annotated[
    str,
    Path(
        pattern=ENV_VAR_KEY,
        description="The secret's name, whether declared or not.",
        examples=["OPENAI_API_KEY"],
    ),
]


@router.get("", response_model=SecretsResponse)
async def list_secrets(deps: Deps, caller: CurrentCaller, agent_id: AgentId) -> Response:
    """Which of the agent's declared secrets have a value."""
    async with deps.database.transaction() as connection:
        agent = await queries.agent(connection, caller.user_id, agent_id)
    set_at_ms = await deps.secrets.set_at_ms(agent)
    return answered(
        SecretsResponse(
            secrets=[
                SecretSchema(key=key, is_set=key in set_at_ms, updated_at_ms=set_at_ms.get(key))
                for key in agent.env_var_keys
            ]
        )
    )


@router.post("", status_code=204, response_class=Response, responses=refusals(ErrorCode.CONFLICT))
async def set_secrets(
    deps: Deps, caller: CurrentCaller, key: RequestKey, agent_id: AgentId, body: SetSecretsBody
) -> Response:
    """Set secrets: they reach every kept deployment within seconds, without a deploy."""
    async with deps.database.snapshot() as connection:
        if (response := await first_response(connection, key)) is not None:
            return response
        agent = await queries.agent(connection, caller.user_id, agent_id)
        await handlers.require_enabled(connection, caller.user_id)
        _, allowed = await handlers.tier_of(connection, deps.tiers, caller.user_id)
    _require_declared(agent, body)
    values = {name: value.get_secret_value() for name, value in body.secrets.items()}
    at_ms = caller.metadata.at_ms
    operation = await operation_of(deps.database, deps.tiers, key, at_ms)
    version = await deps.secrets.set(caller, agent, allowed, values, operation)
    crash_point("api.secrets_set")

    async def work(connection: AsyncConnection) -> None:
        await handlers.secrets_changed(connection, caller, agent_id, version)

    return await execute(deps, key, work, status=204)


@router.delete("/{key}", status_code=204, response_class=Response)
async def delete_secret(deps: Deps, caller: CurrentCaller, agent_id: AgentId, key: Key) -> Response:
    """Delete a secret's value, if it has one: it is removed from every kept deployment."""
    async with deps.database.transaction() as connection:
        agent = await queries.agent(connection, caller.user_id, agent_id)
    version = await deps.secrets.delete(caller, agent, [key])

    async def work(connection: AsyncConnection) -> None:
        await handlers.secrets_changed(connection, caller, agent_id, version)

    return await execute(deps, None, work, status=204)


def _require_declared(agent: Agent, body: SetSecretsBody) -> None:
    issues = [
        {"path": ["secrets", name], "message": f"{name} is not one of the agent's envVarKeys."}
        for name in body.secrets
        if name not in agent.env_var_keys
    ]
    if issues:
        raise InvalidRequest(
            "Only names in the agent's envVarKeys can be set; add a name there first.",
            details={"issues": issues},
        )
